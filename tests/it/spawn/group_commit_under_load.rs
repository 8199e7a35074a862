//! Threads that spawn at the same time commit for each other: with many threads, and with children
//! that die at the gate.

use std::{
    collections::HashSet,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use procledger::{Job, Stdio};
use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    spawn::gate_host::{Given, WriteLock, children, descriptors, in_another_process, note},
    support::{Place, eventually, is_alive, pidfd, sqlite3, until},
};

const THREADS: usize = 8;
const PROGRAMS: usize = 1_000;

#[test]
fn a_thousand_programs_started_at_once_all_have_rows() {
    let place = Place::new();
    in_another_process(&place, "load", Duration::from_mins(3));
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn children_that_wait_at_the_same_time_are_committed_together() {
    let place = Place::new();
    in_another_process(&place, "together", Duration::from_mins(2));
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn a_child_killed_at_the_gate_is_an_error_and_leaves_nothing() {
    let place = Place::new();
    in_another_process(&place, "killed-at-the-gate", Duration::from_mins(2));
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn load(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let pids = Mutex::new(HashSet::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tracker, pids) = (&tracker, &pids);
            scope.spawn(move || {
                for number in 0..PROGRAMS / THREADS {
                    let job = Job::new(format!("{thread}-{number}"), "/bin/sleep")
                        .arg("600")
                        .env("MARKER", &given.marker)
                        .stdin(Stdio::null())
                        .stdout(Stdio::null());
                    let process = tracker.spawn(job).expect("spawned");
                    pids.lock().expect("no panic").insert(process.pid().get());
                }
            });
        }
    });
    note(&format!("{PROGRAMS} spawns in {:?}", began.elapsed()));
    let pids = pids.into_inner().expect("no panic");
    assert_eq!(pids.len(), PROGRAMS, "each its own");
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    let rows = sqlite3(&given.ledger(), "SELECT pid FROM process WHERE state = 'running'");
    let rows: HashSet<u32> = rows.lines().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(rows, pids);
    let began = Instant::now();
    let report = tracker.shutdown().expect("an orderly end");
    note(&format!("all ended in {:?}", began.elapsed()));
    assert_eq!((report.ended(), report.survived()), (PROGRAMS as u64, 0));
}

pub(crate) fn together(given: &Given) {
    // A second after opening, the monitor would copy the WAL back, and the next transaction would
    // start it again.
    let tracker = given.builder().monitor(false).open().expect("a ledger");
    // The cgroup of the instance is recorded at the first spawn, before its child exists.
    let first = Job::new("first", "/bin/true").stdin(Stdio::null());
    tracker.spawn(first).and_then(|mut process| process.wait()).expect("it ran");
    let others = children().len();
    let lock = WriteLock::take(&given.ledger(), &given.marker);
    let before = commits(&given.ledger());
    thread::scope(|scope| {
        for number in 0..THREADS {
            let job = Job::new(format!("together-{number}"), "/bin/sleep").arg("600");
            let job = job.env("MARKER", &given.marker).stdin(Stdio::null()).stdout(Stdio::null());
            let tracker = &tracker;
            scope.spawn(move || tracker.spawn(job).expect("spawned"));
        }
        // The holder of the lock is a child as well.
        until("all are at the gate", || children().len() == others + 1 + THREADS);
        thread::sleep(Duration::from_millis(100));
        assert_eq!(commits(&given.ledger()), before, "no commit while another process writes");
        lock.release();
    });
    let rows = sqlite3(&given.ledger(), "SELECT count(*) FROM process WHERE state = 'running'");
    assert_eq!(rows, THREADS.to_string());
    // The first thread had begun with the rows that were queued by then.
    let commits = commits(&given.ledger()) - before;
    assert!(commits <= THREADS / 2, "{THREADS} rows took {commits} transactions");
    tracker.shutdown().expect("an orderly end");
}

/// Transactions in the WAL: the last frame of each has the size of the ledger
/// (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).
fn commits(ledger: &Path) -> usize {
    let wal = std::fs::read(ledger.with_extension("db-wal")).expect("a WAL");
    let word = |at: usize| u32::from_be_bytes(wal[at..at + 4].try_into().expect("four bytes"));
    let frame = 24 + word(8) as usize;
    let salts = |at: usize| (word(at), word(at + 4));
    let frames = (32..).step_by(frame).take_while(|at| at + frame <= wal.len());
    // Frames behind the last one are of an older round.
    frames.filter(|&at| salts(at + 8) == salts(16)).filter(|&at| word(at + 4) != 0).count()
}

pub(crate) fn killed_at_the_gate(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let ran = given.folder.join("ran");
    let job = |task: &str| {
        Job::new(task, "sh")
            .args(["-c", r#": >"$1""#, &given.marker])
            .arg(&ran)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
    };
    // One round first, so that threads and connections exist.
    tracker.spawn(job("first")).and_then(|mut process| process.wait()).expect("it ran");
    std::fs::remove_file(&ran).expect("it ran");
    let before = descriptors();
    let others: HashSet<u32> = children().into_iter().map(|(pid, _)| pid).collect();
    for number in 0..20 {
        let task = format!("killed-{number}");
        let lock = WriteLock::take(&given.ledger(), &given.marker);
        let holders: HashSet<u32> = children().into_iter().map(|(pid, _)| pid).collect();
        thread::scope(|scope| {
            let spawning = scope.spawn(|| tracker.spawn(job(&task)));
            let pid = eventually("a child at the gate", || {
                let new = |(pid, _): &(u32, char)| !holders.contains(pid) && !others.contains(pid);
                children().into_iter().find(new).map(|(pid, _)| pid)
            });
            // From the clone on, at any step up to the gate.
            thread::sleep(Duration::from_micros(number * 20));
            let fd = pidfd(pid).expect("it waits");
            pidfd_send_signal(&fd, Signal::KILL).expect("killed");
            lock.release();
            let error = spawning.join().expect("no panic").expect_err("killed");
            assert!(error.is_not_started(), "{error:?}");
        });
        let rows = format!("SELECT state, end_reason FROM process WHERE task_id = '{task}'");
        let rows = sqlite3(&given.ledger(), &rows);
        assert!(["", "ended|failed"].contains(&rows.as_str()), "{rows}");
    }
    assert!(!ran.exists(), "a killed child ran");
    until("no child is left", || children().is_empty());
    until("no descriptor is left", || descriptors().len() <= before.len());
    // The task is free again.
    tracker.spawn(job("killed-0")).and_then(|mut process| process.wait()).expect("it runs");
    tracker.shutdown().expect("an orderly end");
}
