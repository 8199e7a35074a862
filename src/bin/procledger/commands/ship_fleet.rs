//! `ship --to URL`: a worker for each ledger, which acts as the ledger's owner.

use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use procledger::fleet::{Address, ShipOptions, Shipper};
use rustix::event::{PollFd, PollFlags};

use super::{
    fleet::address::To,
    ship_backoff::{backoff, jittered},
    ship_watchdog::Watchdog,
};
use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    ledger_path::{Environment, LedgerPath},
    output,
    poll::poll_within,
    service::{RunningWorker, SHIP, StartingWorker, serve_folder, supervise as supervise_all},
};

/// Interval at which a waiting worker reports that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

pub(super) fn supervise(
    ledgers: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    global: &GlobalArgs,
    words: Vec<String>,
) -> Result<Exit> {
    let mut named: Vec<PathBuf> = ledgers.into_iter().chain(global.db.clone()).collect();
    if named.is_empty() && folders.is_empty() {
        named.push(LedgerPath::resolve(None, &Environment::read())?.file);
    }
    supervise_all(&SHIP, named, folders, words, None)
}

/// Returns every `*.db` in these folders.
pub(super) fn ledgers_of(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut ledgers = Vec::new();
    for folder in folders {
        let failed =
            |error| Failure::because(format!("failed to list {}", folder.display()), &error);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "db") {
                ledgers.push(path);
            }
        }
    }
    ledgers.sort();
    Ok(ledgers)
}

/// Ships one ledger, in this process.
pub(super) fn once(global: &GlobalArgs, address: Address, options: ShipOptions) -> Result<Exit> {
    let address = address.with_secret()?;
    let context = Context::prepare(global, Access::Existing)?;
    let interval = options.interval;
    let mut shipper = Shipper::open(&context.ledger, context.trust_folder(), address, options)?;
    let watchdog = Watchdog::start()?;
    loop {
        let turn = watchdog.during(|| shipper.ship())?;
        if turn.is_undecided {
            thread::sleep(interval);
        } else if !turn.has_more {
            return Ok(Exit::DONE);
        }
    }
}

/// Ships several ledgers, one after the other, each in a process of its own: the ledgers may belong
/// to several users.
pub(super) fn each_once(ledgers: &[PathBuf], words: &[String]) -> Result<Exit> {
    let mut exit = Exit::DONE;
    for ledger in ledgers {
        #[expect(clippy::disallowed_methods, reason = "it is waited for, and is this program")]
        let mut command = Command::new("/proc/self/exe");
        command.args(["ship", "--once"]).args(words).arg("--").arg(ledger).stdin(Stdio::null());
        let status = command
            .status()
            .map_err(|error| Failure::because("failed to start a process for a ledger", &error))?;
        if !status.success() {
            output::warn(&format!("{} was not shipped", ledger.display()));
            exit = Exit::FAILED;
        }
    }
    Ok(exit)
}

/// Runs a worker of the supervisor: for a folder, or for a ledger.
pub(super) fn work(
    folders: &[PathBuf],
    global: &GlobalArgs,
    to: &To,
    options: ShipOptions,
) -> Result<Exit> {
    if let [folder] = folders {
        return serve_folder(folder);
    }
    let worker = StartingWorker::begin()?;
    // Before it becomes a user that cannot read the password.
    let address = to.address()?.with_secret();
    worker.serve_ledger(global, |context, worker, stop, _| {
        // A pipe that is not read would block their thread.
        drop(worker.names.take());
        ship(context, address?, options, worker, &stop)
    })
}

/// Ships a ledger until it is ordered to stop.
fn ship(
    context: &Context,
    address: Address,
    options: ShipOptions,
    worker: &RunningWorker,
    stop: &OwnedFd,
) -> Result<Exit> {
    let interval = options.interval;
    let mut shipper = Shipper::open(&context.ledger, context.trust_folder(), address, options)?;
    let watchdog = Watchdog::start()?;
    let (mut failures, mut last_failure) = (0, String::new());
    // Hosts that were started together do not ship together.
    let mut pause = jittered(interval);
    loop {
        if !wait(pause, worker, stop) {
            return Ok(Exit::DONE);
        }
        // If the supervisor is gone, the next wait ends.
        let _ = worker.begins_pass();
        match watchdog.during(|| shipper.ship()) {
            Ok(turn) => {
                if failures > 0 {
                    output::warn("the fleet's database answers again");
                }
                failures = 0;
                pause = if turn.has_more { Duration::ZERO } else { interval };
                last_failure.clear();
            }
            Err(error) if !shipper.is_in_place() => return Err(error.into()),
            Err(error) => {
                pause = jittered(backoff(failures));
                failures += 1;
                let failure = Failure::from(error).message;
                if failure != last_failure {
                    output::warn(&failure);
                    last_failure = failure;
                }
            }
        }
        let _ = worker.looked();
    }
}

/// Waits this long; `false` on the order to stop.
fn wait(pause: Duration, worker: &RunningWorker, stop: &OwnedFd) -> bool {
    let deadline = Instant::now() + pause;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stop, PollFlags::IN)];
        if poll_within(&mut fds, Some(left.min(SIGN_OF_LIFE))) != Ok(0) {
            return false;
        }
        if left <= SIGN_OF_LIFE {
            return true;
        }
        if worker.looked().is_err() {
            return false;
        }
    }
}
