//! `ship`: sends ledgers to a receiver in another place.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use procledger::fleet::ShipOptions;

use super::{fleet::address::To, ship_fleet, ship_lines, ship_status};
use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    ledger_path::{Environment, LedgerPath},
    logging, units,
};

/// Ship ledgers to a fleet's database, or as JSON lines
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger ship --to postgresql://web-1@db.example/fleet --dir /srv/ledgers
  procledger ship --to postgresql://web-1@db.example/fleet --once /var/lib/api/ledger.db
  procledger ship --to - --cursor /var/lib/api/ship.cursor | vector
  procledger ship --status --max-lag 10min

--to URL brings each ledger to the fleet's database (docs/fleet.md) and keeps it up to date there. \
Each ledger has a worker process of its own, which acts as the ledger's owner; there is one \
shipper for a ledger at a time. The ledger is the spool: what the fleet has not acknowledged is \
not pruned, until --limit-size of its owner is exceeded or the fleet was silent for \
--give-up-after. Whatever is killed, disconnected or restored, each row is in the fleet once; rows \
that were pruned before they were shipped are counted. A ledger of an older version is not \
migrated. Errors are tried again after 1 s to 5 min.

--to - prints one JSON object per line, for one ledger: a process that is new, has changed or has \
ended; a leak; a process or leak that the ledger has lost; how many rows were pruned before they \
were shipped (docs/ship-jsonl.md). Each row is printed at least once; `stream`, `type`, `id` and \
`print` identify it. --cursor keeps the position in a file, which is replaced after the lines of a \
batch were written: without it each start begins with the oldest row.

--status prints how far each ledger was shipped, and exits with 1 if one of them is further behind \
than --max-lag.
--json: an array of objects {ledger, fleet, acknowledged_at, shipped_until, lag_ms, processes, \
leaks, last_error}; of a ledger that was never shipped, all but ledger and last_error are null.")]
pub(crate) struct ShipArgs {
    /// Ledgers to ship [default: the default ledger]
    #[arg(value_name = "LEDGER")]
    ledgers: Vec<PathBuf>,
    /// Ship every *.db in this directory, including later ones (can be repeated)
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    content: ContentArgs,
    /// Time between two checks of a ledger for new rows
    #[arg(long, value_name = "D", default_value = "30s", value_parser = units::interval)]
    interval: Duration,
    /// Ship what there is, and exit
    #[arg(long)]
    once: bool,
    /// Keep history for at most this long for a fleet that does not respond
    #[arg(long, value_name = "D", default_value = "30days", value_parser = units::duration)]
    give_up_after: Duration,
    /// With --to -: keep the position in this file (replaced atomically)
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    #[command(flatten)]
    status: StatusArgs,
    /// Be a worker of another `ship`
    #[arg(long, hide = true)]
    worker: bool,
}

/// What is shipped of a ledger.
#[derive(Debug, Args)]
struct ContentArgs {
    /// Host name to ship under [default: that of the machine]
    #[arg(long, value_name = "NAME", value_parser = units::host_name)]
    host: Option<String>,
    /// Ship only the names of programs instead of whole commands
    #[arg(long)]
    no_commands: bool,
    /// Ship only processes that run or have leaked, and no others that have ended
    #[arg(long)]
    no_history: bool,
}

/// Whether to print how far ledgers were shipped.
#[derive(Debug, Args)]
struct StatusArgs {
    /// Print how far each ledger was shipped
    #[arg(long, conflicts_with_all = ["once", "cursor"])]
    status: bool,
    /// With --status: print JSON
    #[arg(long, requires = "status")]
    json: bool,
    /// With --status: exit with 1 if a ledger is further behind
    #[arg(long, value_name = "D", default_value = "10min", value_parser = units::duration)]
    max_lag: Duration,
}

impl ShipArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        if self.worker {
            return ship_fleet::work(&self.dir, global, &self.to, self.options());
        }
        if self.status.status {
            let ledgers = self.named(global)?;
            logging::start(global.verbose, None)?;
            return ship_status::run(&ledgers, self.status.max_lag, self.status.json);
        }
        if self.to.to.as_deref() == Some("-") {
            return self.ship_lines(global);
        }
        if self.cursor.is_some() {
            return Err(Failure::usage(
                "--cursor belongs to --to -: a fleet keeps the position itself",
            ));
        }
        // Before anything else: a usage error.
        let address = self.to.address()?;
        if !self.once {
            return self.supervise(global);
        }
        let ledgers = self.named(global)?;
        match &ledgers[..] {
            [] => Ok(Exit::DONE),
            [ledger] => ship_fleet::once(&global.on(ledger), address, self.options()),
            ledgers => {
                logging::start(global.verbose, None)?;
                ship_fleet::each_once(ledgers, &self.to_arguments(global)?)
            }
        }
    }

    fn ship_lines(self, global: &GlobalArgs) -> Result<Exit> {
        if self.content.no_history {
            return Err(Failure::usage(
                "--no-history belongs to --to URL: select the lines by their `state`",
            ));
        }
        let global = match (&self.ledgers[..], &self.dir[..], &global.db) {
            ([], [], _) => global.clone(),
            ([ledger], [], None) => global.on(ledger),
            _ => {
                return Err(Failure::usage(
                    "--to - prints one ledger, as its owner: run one process for each",
                ));
            }
        };
        let context = Context::prepare(&global, Access::Existing)?;
        let options = ship_lines::Options {
            host: self.content.host.unwrap_or_else(host_name),
            cursor: self.cursor,
            interval: self.interval,
            once: self.once,
            no_commands: self.content.no_commands,
        };
        ship_lines::ship(&context, &options)
    }

    /// Returns all ledgers that were named, and those of the directories, or else the default
    /// ledger.
    fn named(&self, global: &GlobalArgs) -> Result<Vec<PathBuf>> {
        let mut ledgers = self.ledgers.clone();
        ledgers.extend(global.db.clone());
        ledgers.extend(ship_fleet::ledgers_of(&self.dir)?);
        if ledgers.is_empty() && self.dir.is_empty() {
            ledgers.push(LedgerPath::resolve(None, &Environment::read())?.file);
        }
        Ok(ledgers)
    }

    fn supervise(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_one_ledger()?;
        logging::start(global.verbose, None)?;
        let words = self.to_arguments(global)?;
        ship_fleet::supervise(self.ledgers, self.dir, global, words)
    }

    fn options(&self) -> ShipOptions {
        let mut options = ShipOptions::new(self.content.host.clone().unwrap_or_else(host_name));
        options.interval = self.interval;
        options.commands = !self.content.no_commands;
        options.history = !self.content.no_history;
        options.give_up_after = self.give_up_after;
        options
    }

    /// Returns the arguments of a process that ships one of several ledgers in the same way.
    fn to_arguments(&self, global: &GlobalArgs) -> Result<Vec<String>> {
        let mut words = global.to_arguments()?;
        let flags = [
            ("--insecure-tls", self.to.insecure_tls),
            ("--no-commands", self.content.no_commands),
            ("--no-history", self.content.no_history),
        ];
        words.extend(flags.iter().filter(|(_, given)| *given).map(|(flag, _)| (*flag).to_owned()));
        let span = |span: Duration| format!("{}ms", span.as_millis());
        let options = [
            ("--to", self.to.to.clone()),
            ("--host", self.content.host.clone()),
            ("--interval", Some(span(self.interval))),
            ("--give-up-after", Some(span(self.give_up_after))),
        ];
        for (option, value) in options {
            words.extend(value.map(|value| [option.to_owned(), value]).into_iter().flatten());
        }
        Ok(words)
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
