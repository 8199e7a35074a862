//! `ship`: hands a ledger to a receiver in another place.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::ship_lines;
use crate::{
    context::{Access, Context},
    exit::{Exit, Result},
    global_args::GlobalArgs,
    units,
};

/// Ship ledgers to a receiver in another place
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger ship --to - --cursor /var/lib/api/ship.cursor | vector
  procledger ship --to - --once /var/lib/api/ledger.db > history.jsonl

--to - prints one JSON object a line: a process that is new, has changed or has ended, a leak, a
process or leak that the ledger has lost, and how many rows were pruned before they were shipped
(docs/ship-jsonl.md). Each row comes at least once; `stream`, `type`, `id` and `print` identify it.
--cursor keeps the position in a file, which is replaced after the lines of a batch were written:
without it each start begins with the oldest row. Reads the ledger as its owner, and writes nothing
to it.")]
pub(crate) struct ShipArgs {
    /// Ledger to ship [default: the default ledger]
    #[arg(value_name = "LEDGER", conflicts_with = "db")]
    ledger: Option<PathBuf>,
    /// Receiver: - for standard output
    #[arg(long, value_name = "-", value_parser = ["-"])]
    to: String,
    /// Keep the position in this file (replaced atomically)
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Host name to ship under [default: that of the machine]
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    host: Option<String>,
    /// Pause between two looks at the ledger
    #[arg(long, value_name = "D", default_value = "30s", value_parser = units::interval)]
    interval: Duration,
    /// Ship what there is, and exit
    #[arg(long)]
    once: bool,
    /// Ship the names of programs instead of their commands
    #[arg(long)]
    no_commands: bool,
}

impl ShipArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        let global = GlobalArgs { db: self.ledger.or_else(|| global.db.clone()), ..global.clone() };
        let context = Context::prepare(&global, Access::Existing)?;
        let options = ship_lines::Options {
            host: self.host.unwrap_or_else(host_name),
            cursor: self.cursor,
            interval: self.interval,
            once: self.once,
            no_commands: self.no_commands,
        };
        ship_lines::ship(&context, &options)
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
