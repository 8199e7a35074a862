//! `watch`: reaps as soon as an owner dies.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use clap::Args;
use procledger::{Report, Tracker, WatchCycle};

use super::watch_hook::HookArgs;
use crate::{
    context::{Access, Context},
    exit::{Exit, Result},
    global_args::GlobalArgs,
    history_args::HistoryArgs,
    inherited_fds::check_descriptor_limit,
    logging,
    notify::Notify,
    output::{self, Reader},
    render::{clock, ending_line},
    service::{
        self, Ledgers, RunningWorker, Scraper, StartingWorker, WATCH, ask_to_stop, copy, pipe,
        serve, serve_folder, stop_on_a_signal, supervise,
    },
    signals::{STOP, Signals},
    units,
};

/// Watch ledgers and end orphaned processes as soon as their owner dies
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger watch --db /var/lib/api/ledger.db
  procledger watch /var/lib/api/ledger.db /home/ci/ledger.db --dir /srv/ledgers
  procledger watch --dir /srv/ledgers --metrics 9187

Prints a line for each process that it ended. Stops on SIGINT, SIGTERM or SIGHUP. Each ledger that \
is given as an argument or found in a --dir has a worker process of its own, which acts as the \
owner of the ledger: a worker that fails does not stop the others, and a ledger that does not \
exist yet is watched as soon as it exists. Only the ledger of --db is created. --metrics serves \
GET /metrics with the figures of the last 24 h, as `procledger metrics` prints them. --on-leak \
runs its program for each leak that any instance records from now on, with an object as in `report \
--format json` on its standard input and the path of the ledger in $PROCLEDGER_LEDGER. At most 4 \
programs run at once, each as a task `on-leak/...` of the ledger, as the ledger's owner; each is \
ended together with everything it started, and its errors go to stderr. If 1000 leaks are queued, \
further ones are skipped and counted. Notifies systemd of READY, STATUS and WATCHDOG \
(docs/systemd.md).")]
pub(crate) struct WatchArgs {
    /// Ledgers to watch [default: the default ledger]
    #[arg(value_name = "LEDGER")]
    ledgers: Vec<PathBuf>,
    /// Watch every *.db in this directory, including later ones (can be repeated)
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// Leave programs with this name and their descendants running
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
    /// Serve metrics of the ledgers for Prometheus on this PORT of 127.0.0.1, or on this
    /// ADDRESS:PORT, without authentication
    #[arg(long, value_name = "PORT", value_parser = service::address)]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    hook: HookArgs,
    #[command(flatten)]
    history: HistoryArgs,
    /// Be a worker of another `watch`
    #[arg(long, hide = true, conflicts_with = "ledgers")]
    worker: bool,
}

/// Interval of the checks that need no event, as in the library.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The window of the recent figures that are served.
const METRICS_WINDOW: Duration = Duration::from_hours(24);

impl WatchArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        // A worker is given a path that was checked, as its own user may not.
        let hook = if self.worker { self.hook } else { self.hook.check()? };
        let args = Self { hook, ..self };
        args.start(global)
    }

    fn start(self, global: &GlobalArgs) -> Result<Exit> {
        // Programs of --on-leak inherit the limit, so it is not raised.
        if !self.worker {
            check_descriptor_limit()?;
        }
        match (&self.dir[..], self.worker) {
            ([folder], true) => serve_folder(folder),
            (_, true) => self.serve_ledger(global),
            ([], false) if self.ledgers.is_empty() => {
                let context = Context::prepare(global, Access::Create)?;
                let signals = Signals::block(&STOP)?;
                output::write_from_threads()?;
                if let Some(address) = self.metrics {
                    let served = Ledgers::default();
                    served
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(context.ledger.clone());
                    serve(address, served, scraper(global)?)?;
                }
                let (stop, stopper) = pipe()?;
                stop_on_a_signal(signals, copy(&stopper)?, true)?;
                self.watch_one(&context, stop, &stopper, None)
            }
            (_, false) => self.supervise(global),
        }
    }

    fn supervise(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_one_ledger()?;
        logging::start(global.verbose, None)?;
        let named = self.ledgers.into_iter().chain(global.db.clone()).collect();
        let protect = self.protect.into_iter().flat_map(|name| ["--protect".to_owned(), name]);
        let words = global.to_arguments()?.into_iter().chain(protect);
        let words = words.chain(self.history.to_arguments()).chain(self.hook.to_arguments());
        let metrics = match self.metrics {
            Some(address) => Some((address, scraper(global)?)),
            None => None,
        };
        supervise(&WATCH, named, self.dir, words.collect(), metrics)
    }

    /// As a worker of another `watch`, for one ledger.
    fn serve_ledger(self, global: &GlobalArgs) -> Result<Exit> {
        StartingWorker::begin()?.serve_ledger(global, |context, worker, stop, stopper| {
            let names = worker.names.take();
            self.watch_one(context, stop, stopper, Some((worker, names)))
        })
    }

    fn watch_one(
        self,
        context: &Context,
        stop: OwnedFd,
        stopper: &OwnedFd,
        worker: Option<(&RunningWorker, Option<OwnedFd>)>,
    ) -> Result<Exit> {
        let mut notify = Notify::from_environment();
        let began = SystemTime::now();
        let builder = self.history.apply(context.reaper()).protected_names(self.protect);
        let (worker, names) = worker.unzip();
        // A worker opens first, which is fast, and then announces the pass, which may take long.
        let tracker = builder.reap_on_open(worker.is_none()).open()?;
        self.hook.start(&tracker, began)?;
        let print_report = |report: &Report| match print(report) {
            Ok(Reader::There) => {}
            Ok(Reader::Gone) => ask_to_stop(stopper),
            Err(failure) => output::warn(&failure.message),
        };
        match worker {
            Some(worker) => {
                // If the supervisor is gone, the first cycle notices.
                let _ = worker.begins_pass();
                print_report(&tracker.reap_orphans()?);
            }
            None => print_report(tracker.startup_report()),
        }
        let look_again = notify.interval().map_or(LOOK_AGAIN, |limit| limit.min(LOOK_AGAIN));
        let on_cycle = |cycle: &WatchCycle<'_>| {
            if let Some(report) = cycle.report {
                print_report(report);
            }
            let sent =
                worker.map(
                    |worker| if cycle.begins_pass { worker.begins_pass() } else { worker.looked() },
                );
            if sent.is_some_and(|sent| sent.is_err()) || output::reader() == Reader::Gone {
                ask_to_stop(stopper);
            }
            if !cycle.begins_pass {
                notify.ready(&status(&tracker, cycle));
            }
            notify.alive();
        };
        let watched = match names.flatten() {
            Some(names) => tracker.watch_named(names, stop, look_again, on_cycle),
            None => tracker.watch_cycles(stop, look_again, on_cycle),
        };
        notify.stopping();
        // Also if the watch has failed: its claims are released.
        let closed = tracker.shutdown();
        watched?;
        closed?;
        Ok(Exit::DONE)
    }
}

/// As `procledger metrics` reads ledgers, with its default window.
fn scraper(global: &GlobalArgs) -> Result<Scraper> {
    Ok(Scraper::new(METRICS_WINDOW, global.trust_folder()?))
}

fn status(tracker: &Tracker, cycle: &WatchCycle<'_>) -> String {
    let s = if cycle.watched == 1 { "" } else { "s" };
    format!("watching {} instance{s} of {}", cycle.watched, tracker.path().display())
}

fn print(report: &Report) -> Result<Reader> {
    for error in &report.errors {
        output::warn(error);
    }
    let now = clock(SystemTime::now());
    let line = |ending| now.clone() + " " + &ending_line(ending) + "\n";
    output::print(report.endings.iter().map(line).collect::<String>())
}
