//! Every thread of a tracker against every other, for the thread sanitizer.
//!
//! Not a test of the results, which `tests/it` covers: only of which thread accesses which memory
//! when. The monitor, the exporter and the housekeeper run as they do in a host; six threads of the
//! caller spawn, and commit for each other, wait, terminate, register and inspect at the same time,
//! and a tracker is opened and closed in each round.
//!
//! One thing differs from a host: a child is created by a thread that is suspended until it has
//! left our memory, since the sanitizer keeps its state in thread-local memory, which child and
//! thread share.

mod edges {
    include!(concat!(env!("OUT_DIR"), "/edges.rs"));
}

use std::{
    cell::UnsafeCell,
    path::Path,
    process::{Child, Command},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Error, Job, Stdio, Tracker};

/// The duration in seconds; an argument overrides it.
const SECONDS: u64 = 10;
/// The duration of one tracker, between its opening and its end.
const ROUND: Duration = Duration::from_millis(700);

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

fn main() -> Result {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("race") {
        plant_a_race();
        return Ok(());
    }
    let seconds = argument.map_or(Ok(SECONDS), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < end {
        round(folder.path(), rounds)?;
        rounds += 1;
    }
    println!("{rounds} trackers were opened, used by all their threads at once, and closed");
    Ok(())
}

/// What the sanitizer must find: two threads write, and only one of them takes the lock.
fn plant_a_race() {
    struct Shared(UnsafeCell<u64>);
    // SAFETY: deliberately violated.
    unsafe impl Sync for Shared {}
    static SHARED: Shared = Shared(UnsafeCell::new(0));
    static LOCK: Mutex<()> = Mutex::new(());
    // Both live when they write: the sanitizer may not know a thread any more that has ended.
    let (begin, end) = (Barrier::new(2), Barrier::new(2));
    let write = || {
        for _ in 0..1000 {
            // SAFETY: as above.
            unsafe { *SHARED.0.get() += 1 };
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            write();
            end.wait();
        });
        scope.spawn(|| {
            begin.wait();
            let lock = LOCK.lock();
            write();
            drop(lock);
            end.wait();
        });
    });
}

/// One tracker. The caller closes it alternately while no thread uses it, and while all do.
fn round(folder: &Path, number: u32) -> Result {
    let tracker = Tracker::builder(folder.join("ledger.db"))
        .export(folder.join("export.json"))
        .containment(if number % 3 == 0 { ContainmentMode::Auto } else { ContainmentMode::Session })
        .health_interval(Duration::from_millis(20))
        .keep_history(Duration::from_millis(50))
        .grace(Duration::from_millis(20))
        .open()?;
    let stop = AtomicBool::new(false);
    let failures: Vec<Error> = std::thread::scope(|scope| {
        let verbs: [fn(&Tracker, u32) -> procledger::Result<()>; 6] =
            [run, run, end, let_go, look, check];
        let threads: Vec<_> = verbs
            .into_iter()
            .enumerate()
            .map(|(at, verb)| {
                let (tracker, stop) = (tracker.clone(), &stop);
                scope.spawn(move || go_on(at, stop, |turn| verb(&tracker, turn)))
            })
            .collect();
        std::thread::sleep(ROUND);
        if number % 2 == 0 {
            stop.store(true, Ordering::Relaxed);
        }
        let ended = tracker.shutdown().err();
        stop.store(true, Ordering::Relaxed);
        let failed = threads.into_iter().filter_map(|thread| thread.join().expect("no panic"));
        failed.chain(ended).collect()
    });
    match failures.into_iter().find(|error| !is_expected(error)) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Rounds of one thread, each with its own tasks, until it is stopped or the tracker is closed.
fn go_on(
    at: usize,
    stop: &AtomicBool,
    verb: impl Fn(u32) -> procledger::Result<()>,
) -> Option<Error> {
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match verb(at as u32 * 1_000_000 + turn) {
            Err(error) if error.is_closed() => return None,
            Err(error) if !is_expected(&error) => return Some(error),
            _ => {}
        }
    }
    None
}

/// Errors that one thread's verb may get because of another's: a task that has ended, a ledger that
/// is busy or closed.
fn is_expected(error: &Error) -> bool {
    error.is_closed() || error.is_busy() || error.is_not_found() || error.is_gone()
}

fn job(turn: u32, script: &str) -> Job {
    let job = Job::new(format!("task-{turn}"), "/bin/sh").args(["-c", script]);
    job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn run(tracker: &Tracker, turn: u32) -> procledger::Result<()> {
    let mut process = tracker.spawn(job(turn, "exit 3"))?;
    process.wait_timeout(Duration::from_secs(10))?;
    Ok(())
}

fn end(tracker: &Tracker, turn: u32) -> procledger::Result<()> {
    tracker.spawn(job(turn, "sleep 60 & wait").max_runtime(Duration::from_secs(30)))?;
    tracker.terminate(&format!("task-{turn}"))?;
    Ok(())
}

/// A child of this program, ended when it is dropped.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn let_go(tracker: &Tracker, turn: u32) -> procledger::Result<()> {
    let own = Own(Command::new("sleep").arg("60").spawn().expect("sleep runs"));
    let task = format!("task-{turn}");
    tracker.register(&task, own.0.id())?;
    if turn % 2 == 0 {
        tracker.unregister(&task)?;
    } else {
        drop(own);
    }
    Ok(())
}

fn look(tracker: &Tracker, _: u32) -> procledger::Result<()> {
    tracker.metrics();
    tracker.ledger().roots()?;
    tracker.ledger().history(procledger::Query::new().limit(10))?;
    tracker.flush_export(Duration::from_secs(5))?;
    Ok(())
}

fn check(tracker: &Tracker, _: u32) -> procledger::Result<()> {
    tracker.health_pass()?;
    tracker.reap_orphans()?;
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}
