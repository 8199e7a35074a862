//! `watch`: reaps the moment an owner dies.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    thread,
    time::Duration,
};

use clap::Args;
use procledger::{Millis, Report, Tracker, Turn};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    keeping::KeepingArgs,
    logging,
    notify::Notify,
    output::{self, Reader},
    render::{clock, ending_line},
    service::supervise,
    signals::{STOP, Signals},
    units,
};

/// Watch ledgers and end orphaned processes as soon as their owner dies
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger watch --db /var/lib/api/ledger.db
  procledger watch /var/lib/api/ledger.db /home/ci/ledger.db --dir /srv/ledgers

Prints a line for each process that it ended. Stops on SIGINT, SIGTERM or SIGHUP.
Each ledger that is given as an argument or found in a --dir has a worker process of its
own, which acts as the owner of the ledger: a worker that fails does not stop the others,
and a ledger that does not exist yet is watched as soon as it does. Only the ledger of
--db is created. Notifies systemd of READY, STATUS and WATCHDOG (docs/systemd.md).")]
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
    #[command(flatten)]
    keeping: KeepingArgs,
    /// Be a worker of another `watch`
    #[arg(long, hide = true, conflicts_with_all = ["ledgers", "dir"])]
    worker: bool,
}

/// What is looked at without being told of it: the library's own.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A supervisor that is stopped must not stop its workers.
const SIGN_LIMIT: Duration = Duration::from_millis(1);

impl WatchArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        if self.ledgers.is_empty() && self.dir.is_empty() {
            let access = if self.worker { Access::Existing } else { Access::Create };
            return self.watch_one(&Context::prepare(global, access)?);
        }
        let many = |option: Option<&str>| match option {
            Some(option) => Err(Failure::usage(format!(
                "{option} is for one ledger: name it with --db, and no others"
            ))),
            None => Ok(()),
        };
        many(global.export.is_some().then_some("--export"))?;
        many(global.profile.is_some().then_some("--profile"))?;
        many(global.log_file.is_some().then_some("--log-file"))?;
        logging::start(global.verbose, None)?;
        let named = self.ledgers.into_iter().chain(global.db.clone()).collect();
        let verbose = (0..global.verbose).map(|_| "-v".to_owned());
        let migrate = global.migrate.then(|| "--migrate".to_owned());
        let protect = self.protect.into_iter().flat_map(|name| ["--protect".to_owned(), name]);
        let trust = global.trust_folder.iter();
        let trust =
            trust.flat_map(|dir| ["--trust-folder".to_owned(), dir.to_string_lossy().into_owned()]);
        let words = verbose.chain(migrate).chain(protect).chain(trust).chain(self.keeping.words());
        supervise(named, self.dir, words.collect())
    }

    fn watch_one(self, context: &Context) -> Result<Exit> {
        let signals = Signals::block(&STOP)?;
        let mut notify = Notify::from_environment();
        let builder = self.keeping.apply(context.reaper()).protected_names(self.protect);
        let tracker = signals.end_us_during(|| builder.open())??;
        let (stop, stopper) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| Failure::because("failed to create a pipe", &error))?;
        let copy = || {
            stopper
                .try_clone()
                .map_err(|error| Failure::because("failed to copy a descriptor", &error))
        };
        let unread = copy()?;
        let mut supervisor = None;
        if self.worker {
            supervisor = Some(Supervisor::of_worker()?);
            stop_with_the_supervisor(copy()?);
        }
        stop_on_a_signal(signals, stopper);
        let tell = |report: &Report| match print(report) {
            Ok(Reader::There) => {}
            Ok(Reader::Gone) => ask_to_stop(&unread),
            Err(failure) => output::complain(&failure.message),
        };
        tell(tracker.startup_report());
        let look_again = notify.interval().map_or(LOOK_AGAIN, |limit| limit.min(LOOK_AGAIN));
        let watched = tracker.watch_turns(stop, look_again, |turn| {
            if let Some(report) = turn.report {
                tell(report);
            }
            if supervisor.as_mut().is_some_and(|it| it.give_a_sign().is_err()) {
                ask_to_stop(&unread);
            }
            notify.ready(&status(&tracker, turn));
            notify.alive();
        });
        notify.stopping();
        // Also where the watch has failed: its claims are given back.
        let closed = tracker.shutdown();
        watched?;
        closed?;
        Ok(Exit::DONE)
    }
}

fn status(tracker: &Tracker, turn: &Turn<'_>) -> String {
    let s = if turn.watched == 1 { "" } else { "s" };
    format!("watching {} instance{s} of {}", turn.watched, tracker.path().display())
}

fn stop_on_a_signal(signals: Signals, stopper: OwnedFd) {
    thread::spawn(move || {
        // On an error as well: better to stop than never to.
        let _ = signals.next();
        ask_to_stop(&stopper);
    });
}

/// The end of standard input is the supervisor's order to stop, or its death.
fn stop_with_the_supervisor(stopper: OwnedFd) {
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut [0; 64]), Ok(1..)) {}
        ask_to_stop(&stopper);
    });
}

/// The supervisor, as its worker sees it: the other end of standard input.
#[derive(Debug)]
struct Supervisor(UnixStream);

impl Supervisor {
    fn of_worker() -> Result<Self> {
        let failed = |error| Failure::because("--worker is for another `watch`", &error);
        let line = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let line = UnixStream::from(line);
        line.set_write_timeout(Some(SIGN_LIMIT)).map_err(failed)?;
        Ok(Self(line))
    }

    /// A byte. One that does not read has signs enough.
    fn give_a_sign(&mut self) -> io::Result<()> {
        match self.0.write_all(b".") {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the other end readable.
fn ask_to_stop(stopper: &OwnedFd) {
    // It fails only once nobody watches any more.
    let _ = rustix::io::write(stopper, b"x");
}

fn print(report: &Report) -> Result<Reader> {
    for error in &report.errors {
        output::complain(error);
    }
    let now = clock(Millis::now());
    let line = |ending| now.clone() + " " + &ending_line(ending) + "\n";
    output::print(report.endings.iter().map(line).collect::<String>())
}
