//! `ship --to URL`: a worker for each ledger, which acts as the ledger's owner.

use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use procledger::fleet::{Address, ShipOptions, Shipper};
use rustix::event::{PollFd, PollFlags};

use super::{
    fleet::address::To,
    watch::{copy, pipe, stop_on_a_signal},
};
use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    ledger_path::{Environment, LedgerPath},
    output,
    poll::poll_within,
    service::{RunningWorker, SHIP, StartingWorker, serve_folder, supervise as supervise_all},
    signals::{STOP, Signals},
    threads,
};

/// Wait after the first error; it doubles with each further one, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// Interval at which a waiting worker reports that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// The database may take a minute for a statement. A connection that hangs for longer is given up, with its process: nothing is
/// lost, as the ledger is the spool.
const HANG_LIMIT: Duration = Duration::from_mins(2);

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

/// Ships several ledgers, one after the other, each in a process of its own: the ledgers may belong to several users.
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
    let mut worker = StartingWorker::begin()?;
    let signals = Signals::block(&STOP)?;
    // Before it becomes a user that cannot read the password.
    let address = to.address()?.with_secret();
    let path = LedgerPath::resolve(global.db.as_deref(), &Environment::read())?.file;
    if !worker.wait_for(&path, &signals)? {
        return Ok(Exit::DONE);
    }
    let context = Context::prepare(global, Access::Existing);
    let (stop, stopper) = pipe()?;
    let mut worker = worker.receive_orders(&path, copy(&stopper)?)?;
    stop_on_a_signal(signals, stopper, false)?;
    // A pipe that is not read would block their thread.
    drop(worker.names.take());
    let done = context.and_then(|context| ship(&context, address?, options, &worker, &stop));
    done.inspect_err(|failure| {
        output::warn(&failure.message);
        worker.wait_for_change(&path, &stop);
    })
    .or(Ok(Exit::FAILED))
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

fn backoff(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(20)).min(LONGEST_WAIT)
}

/// Returns a random part of a span: a fleet that reconnects at once would take its server down again.
fn jittered(span: Duration) -> Duration {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(uuid::Uuid::new_v4().as_u64_pair().0 % millis)
}

/// Ends this process if the database does not answer: a connection may hang for ever.
struct Watchdog(Arc<Mutex<Option<Instant>>>);

impl Watchdog {
    fn start() -> Result<Self> {
        let deadline = Arc::new(Mutex::new(None::<Instant>));
        let watched = Arc::clone(&deadline);
        threads::start("procledger-watchdog", move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                let deadline = *watched.lock().unwrap_or_else(PoisonError::into_inner);
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    output::warn(&format!(
                        "the fleet's database has not answered for {} s: the connection is given up",
                        HANG_LIMIT.as_secs()
                    ));
                    output::flush();
                    std::process::exit(Exit::FAILED.code());
                }
            }
        })?;
        Ok(Self(deadline))
    }

    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let set = |deadline| *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        set(Some(Instant::now() + HANG_LIMIT));
        let done = work();
        set(None);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        let seconds = |failures| backoff(failures).as_secs();
        assert_eq!([0, 1, 2, 8, 9, 40].map(seconds), [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn a_wait_is_a_random_part_of_the_span() {
        let span = Duration::from_secs(30);
        let waits: Vec<_> = (0..50).map(|_| jittered(span)).collect();
        assert!(
            waits.iter().all(|wait| *wait < span) && waits.iter().any(|wait| *wait != waits[0])
        );
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
