//! `metrics`: prints metrics of a ledger for Prometheus.

use std::time::Duration;

use clap::Args;

use crate::{
    context::Context,
    exit::{Exit, Result},
    output, units,
};

/// Print metrics of the ledger in the Prometheus text format
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger metrics > procledger.prom.new && mv procledger.prom.new procledger.prom

Run it from a timer for the textfile collector of the node exporter. Every name begins with
procledger_ledger_. History is pruned, so none of these is a counter: ends, leaks and passes are
those of the last D. Counters and latencies are available from the embedding program
(Tracker::metrics). On failure nothing is printed: alert on the age of the file.")]
pub(crate) struct MetricsArgs {
    /// Window in which ends, leaks and passes are counted
    #[arg(long, value_name = "D", default_value = "1day", value_parser = units::duration)]
    since: Duration,
}

impl MetricsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        output::print(context.read()?.metrics(self.since)?.to_prometheus())?;
        Ok(Exit::DONE)
    }
}
