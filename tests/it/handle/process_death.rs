//! Tracked processes die by themselves.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    time::{Duration, Instant},
};

use procledger::{ExitStatus, Tracker};

use crate::support::{PidfdWatch, Place, alone, until};

/// The bound for the monitor; the best of several tries counts, since the machine has other
/// load.
const NOTICED: Duration = Duration::from_millis(50);
const TRIES: u32 = 10;

/// Time from the death of a process until the ledger records it.
fn time_until_noticed(tracker: &Tracker, watched: &PidfdWatch, kill: impl FnOnce()) -> Duration {
    kill();
    until("it dies", || watched.is_dead());
    let died = Instant::now();
    until("its row is ended", || tracker.ledger().roots().expect("readable").is_empty());
    died.elapsed()
}

#[test]
fn the_monitor_detects_the_death_of_a_spawned_process_at_once_and_records_its_signal() {
    let _alone = alone();
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let best = (0..TRIES).map(|_| {
        let process = tracker.spawn(place.job("dies", "exec sleep 3600")).expect("spawned");
        let watched = PidfdWatch::on(process.pid().get());
        time_until_noticed(&tracker, &watched, || watched.kill())
    });
    let best = best.min().expect("some");
    assert!(best < NOTICED, "noticed after {best:?}");
    let ended = "SELECT DISTINCT end_reason, exit_code, exit_signal FROM process";
    assert_eq!(place.sqlite3(ended), "exited||9");
}

#[test]
fn the_monitor_detects_the_death_of_a_registered_process_at_once_and_its_code_once_it_is_reaped() {
    let _alone = alone();
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let best = (0..TRIES).map(|_| {
        let mut guard = place.child("exec sleep 3600");
        let watched = PidfdWatch::on(guard.pid());
        tracker.register("registered", guard.pid()).expect("registered");
        let fd = crate::support::pidfd(guard.pid()).expect("it lives");
        // Reaped at once by its parent, as in a host that waits for its child.
        let reaper = std::thread::spawn(move || guard.0.wait().expect("reaped"));
        let _ = rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::TERM);
        let took = time_until_noticed(&tracker, &watched, || {});
        reaper.join().expect("reaped");
        took
    });
    let best = best.min().expect("some");
    assert!(best < NOTICED, "noticed after {best:?}");
    let exited = "SELECT count(*) FROM process WHERE end_reason = 'exited'";
    assert_eq!(place.sqlite3(exited), TRIES.to_string());
}

#[test]
fn the_exit_code_of_a_registered_child_comes_from_its_pidfd() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut child: Child = Command::new("/bin/sh")
        .args(["-c", "read line; exit 7", place.marker()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    tracker.register("registered", child.id()).expect("registered");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("its status stays ours").code(), Some(7));
    until("its row is ended", || tracker.ledger().roots().expect("readable").is_empty());
    assert_eq!(place.sqlite3("SELECT end_reason, exit_code FROM process"), "exited|7");
}

#[test]
fn the_handle_of_a_registered_process_waits_for_it_and_ends_its_tree() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut child: Child = Command::new("/bin/sh")
        .args(["-c", "exec sleep 3600", place.marker()])
        .spawn()
        .expect("a shell");
    let mut process = tracker.register("registered", child.id()).expect("registered");
    assert_eq!((process.pid().get(), process.task_id().as_str()), (child.id(), "registered"));
    assert_eq!(process.try_wait().expect("waited"), None);
    assert_eq!(process.terminate().expect("ended").survived(), 0);
    assert_eq!(child.wait().expect("its status stays ours").signal(), Some(15));
    process.wait().expect("it has ended");
    assert_eq!(place.sqlite3("SELECT state, end_reason FROM process"), "ended|terminated");
}

#[test]
fn a_registered_process_that_is_never_reaped_is_ended_without_a_code() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let guard = place.child("exec sleep 3600");
    tracker.register("zombie", guard.pid()).expect("registered");
    PidfdWatch::on(guard.pid()).kill();
    until("its row is ended", || tracker.ledger().roots().expect("readable").is_empty());
    assert_eq!(crate::support::state(guard.pid()), Some('Z'), "the zombie is its parent's to reap");
    let row = "SELECT state, exit_code IS NULL AND exit_signal IS NULL FROM process";
    assert_eq!(place.sqlite3(row), "ended|1");
}

#[test]
fn a_waiter_gets_the_code_and_the_ledger_has_it_when_wait_returns() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("code", "exit 42")).expect("spawned");
    assert_eq!(process.wait().expect("waited"), ExitStatus::Exited(42));
    assert_eq!(place.sqlite3("SELECT end_reason, exit_code FROM process"), "exited|42");
    assert_eq!(process.wait().expect("twice"), ExitStatus::Exited(42));
}

#[test]
fn without_a_monitor_the_health_pass_detects_each_death() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let spawned = tracker.spawn(place.job("spawned", "exit 5")).expect("spawned");
    let mut guard = place.child("exec sleep 3600");
    tracker.register("registered", guard.pid()).expect("registered");
    let living = tracker.spawn(place.job("living", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(guard.pid());
    watched.kill();
    guard.0.wait().expect("reaped");
    let spawned = spawned.pid().get();
    until("it dies", || crate::support::state(spawned) == Some('Z'));
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "3", "no pass has run yet");

    let report = tracker.health_pass().expect("a pass");
    assert_eq!((report.checked, report.endings.len()), (3, 2), "{report:?}");
    let rows = "SELECT task_id, state, exit_code, exit_signal FROM process ORDER BY id";
    let rows = place.sqlite3(rows);
    assert_eq!(rows, "spawned|ended|5|\nregistered|ended||9\nliving|running||");
    assert!(crate::support::is_alive(living.pid().get()));
    let pass = "SELECT checked, found, ended FROM pass WHERE kind = 'health'";
    assert_eq!(place.sqlite3(pass), "3|2|2");
}
