//! `metrics`: prints metrics of ledgers for Prometheus.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    output,
    service::{Scraper, absolute, shed_inherited},
    units,
};

/// Print metrics of ledgers in the Prometheus text format
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger metrics > procledger.prom.new && mv procledger.prom.new procledger.prom
  procledger metrics --dir /srv/ledgers --db /var/lib/api/ledger.db

Run it from a timer for the textfile collector of the node exporter, or let Prometheus scrape \
`procledger watch --metrics`. Every name begins with procledger_ledger_, and every sample has the \
label `ledger`, its absolute path. History is pruned, so none of these is a counter: ends, leaks \
and passes are those of the last D. Counters and latencies are available from the embedding \
program (Tracker::metrics). If a single ledger cannot be read nothing is printed: alert on the age \
of the file. Of several, one that cannot be read has procledger_ledger_readable 0, and the others \
are printed.")]
pub(crate) struct MetricsArgs {
    /// Ledgers to read [default: the default ledger]
    #[arg(value_name = "LEDGER")]
    ledgers: Vec<PathBuf>,
    /// Read every *.db in this directory (can be repeated)
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Window in which ends, leaks and passes are counted
    #[arg(long, value_name = "D", default_value = "1day", value_parser = units::duration)]
    since: Duration,
    /// Read one ledger for another `metrics` or `watch`
    #[arg(long, hide = true, conflicts_with_all = ["ledgers", "dir"])]
    worker: bool,
}

impl MetricsArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        if self.worker {
            shed_inherited()?;
        } else if !self.ledgers.is_empty() || !self.dir.is_empty() {
            return self.of_many(global);
        }
        let context = Context::prepare(global, Access::Existing)?;
        let metrics = context.read()?.metrics(self.since)?;
        let path = absolute(context.ledger);
        let path = path.to_string_lossy();
        // The process that asked this one adds the label: it does not trust the owner of the ledger
        // with it.
        let labels: &[(&str, &str)] = if self.worker { &[] } else { &[("ledger", &path)] };
        output::print(metrics.to_prometheus_with(labels))?;
        Ok(Exit::DONE)
    }

    fn of_many(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_one_ledger()?;
        let mut ledgers = self.ledgers;
        ledgers.extend(global.db.clone());
        for folder in &self.dir {
            ledgers.extend(ledgers_in(folder)?);
        }
        let scraper = Scraper::new(self.since, global.trust_folder()?);
        let (page, warnings) = scraper.page(ledgers);
        for warning in warnings {
            output::warn(&warning);
        }
        output::print(page)?;
        Ok(Exit::DONE)
    }
}

/// Returns every `*.db` in a folder.
fn ledgers_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(
            |error| Failure::because(format!("failed to list {}", folder.display()), &error),
        )?;
    let is_ledger = |entry: &fs::DirEntry| {
        entry.path().extension().is_some_and(|extension| extension == "db")
            && entry.path().is_file()
    };
    Ok(entries.iter().filter(|entry| is_ledger(entry)).map(fs::DirEntry::path).collect())
}
