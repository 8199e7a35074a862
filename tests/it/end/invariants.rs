//! Scenarios of invariants that fit no other file. docs/guarantees.md lists which test covers
//! which.

use std::{fs, process::Command};

use procledger::Tracker;

use crate::support::{Guard, Host, PidfdWatch, Place, in_namespace, is_alive, until};

/// In a namespace of its own, where no other process takes pids.
#[test]
fn invariant_02_a_reused_pid_gets_no_signal() {
    if !in_namespace("end::invariants::invariant_02_a_reused_pid_gets_no_signal") {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "exec sleep 3600");
    host.crash();
    task.kill();
    // This test is the namespace's first process, so the orphan is its child now.
    let pid = nix::unistd::Pid::from_raw(task.pid().cast_signed());
    nix::sys::wait::waitpid(pid, None).expect("reaped");
    let mut unrelated = with_pid(task.pid());

    let mut next = Host::start(&place, "");
    assert!(unrelated.is_running(), "the process with this pid now is not the task");
    assert_eq!(place.sqlite3("SELECT state, end_reason FROM process"), "ended|gone");
    assert_eq!(place.sqlite3("SELECT count(*) FROM leak"), "0");
    // The same under a live owner that is not notified of the end: it has no monitor.
    next.ask("health");
    assert!(unrelated.is_running() && is_alive(unrelated.pid()));
    next.stop();
    assert!(unrelated.is_running());
}

/// Starts a program with exactly this pid.
fn with_pid(pid: u32) -> Guard {
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root may");
        let child = Command::new("sleep").arg("3600").stdin(std::process::Stdio::null()).spawn();
        let guard = Guard(child.expect("sleep"));
        if guard.pid() == pid {
            return guard;
        }
    }
    panic!("no process got pid {pid}");
}

/// Keeps the ledger from being written, as an open transaction in `sqlite3` may do.
fn locked(place: &Place) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    connection
}

#[test]
fn invariant_10_a_program_that_cannot_be_recorded_never_runs() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let lock = locked(&place);
    let error = tracker.spawn(place.job("task", "touch ran")).expect_err("no row, no program");
    assert!(error.is_busy(), "{error}");
    assert_eq!(place.alive(), [0_u32; 0], "the child at the gate is gone");
    assert!(!place.path().join("ran").exists());
    drop(lock);
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
    let mut process = tracker.spawn(place.job("task", "touch ran")).expect("recorded");
    assert!(process.wait().expect("waited").success());
    assert!(place.path().join("ran").exists());
}

#[test]
fn invariant_10_a_member_is_ended_although_it_cannot_be_recorded() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "setsid sleep 3600 & echo $! > daemon; wait"));
    let root = PidfdWatch::on(process.expect("spawned").pid().get());
    let daemon = place.watch("daemon");
    let lock = locked(&place);
    let report = tracker.terminate("task").expect("ended");
    assert!(root.is_dead() && daemon.is_dead(), "{report:?}");
    drop(lock);
    until("it is recorded when it can be", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3("SELECT count(*) FROM running") == "0"
    });
    let row = "SELECT end_reason FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(row), "terminated");
    tracker.spawn(place.job("task", "exit 0")).expect("the task may run again");
}
