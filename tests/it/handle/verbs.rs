//! Unregister, forget, kill and terminate: what each reports about its effect.

use procledger::Tracker;

use crate::support::{Host, PidfdWatch, Place, is_alive, procledger, sqlite3};

#[test]
fn an_unregistered_process_runs_on_and_has_no_owner() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let child = place.child("exec sleep 3600");
    host.ask(&format!("register task {}", child.pid()));
    assert_eq!(host.ask("unregister task"), "true");
    assert_eq!(host.ask("unregister task"), "false");
    assert_eq!(host.ask("running"), "0");
    host.crash();
    Host::start(&place, "").stop();
    assert!(is_alive(child.pid()));
    assert_eq!(place.sqlite3("SELECT end_reason FROM process"), "released");
}

#[test]
fn an_unknown_task_is_not_found_and_nothing_is_changed() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let task = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    assert!(tracker.terminate("other").is_err_and(|error| error.is_not_found()));
    assert!(tracker.kill(&["task", "other"], "the test").is_err_and(|error| error.is_not_found()));
    assert!(tracker.forget("other", "the test").is_err_and(|error| error.is_not_found()));
    assert!(tracker.forget("task", "the test").is_err_and(|error| error.is_busy()), "it lives");
    assert!(is_alive(task.pid().get()));
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
}

#[test]
fn a_kill_reaches_tasks_of_any_instance_and_records_who_requested_it() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "setsid sleep 3600 & sleep 3600 & wait");
    let other = host.spawn("other", "exec sleep 3600");
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let report = tracker.kill(&["task"], "ann").expect("killed");
    assert!(task.is_dead() && !other.is_dead(), "{report:?}");
    let row = "SELECT end_reason, asked_by FROM history WHERE task_id = 'task' AND NOT descendant";
    assert_eq!(place.sqlite3(row), "killed|ann");
    let kill = place.procledger(&["kill", "other"]);
    assert_eq!(kill.status.code(), Some(0), "{kill:?}");
    assert!(other.is_dead());
    let row = "SELECT end_reason, asked_by IS NOT NULL FROM history WHERE task_id = 'other'";
    assert_eq!(place.sqlite3(row), "killed|1");
    assert_eq!(host.ask("running"), "0");
    host.stop();
}

#[test]
fn a_row_of_an_unverifiable_instance_can_be_forgotten() {
    let (place, copies) = (Place::new(), Place::new());
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "exec sleep 3600");
    host.crash();
    // In a copy its instance cannot be checked. Its process is alive, so it cannot be forgotten
    // either.
    let copy = copies.ledger();
    std::fs::copy(place.ledger(), &copy).expect("copied");
    let wal = |path: &std::path::Path| path.with_file_name("ledger.db-wal");
    std::fs::copy(wal(&place.ledger()), wal(&copy)).expect("copied");
    let refused = procledger(&copy, &["forget", "task"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    task.kill();
    crate::support::until("it is reaped", || crate::support::state(task.pid()).is_none());
    let forgotten = procledger(&copy, &["forget", "task"]);
    assert_eq!(forgotten.status.code(), Some(0), "{forgotten:?}");
    let row = "SELECT state, end_reason, asked_by IS NOT NULL FROM process";
    assert_eq!(sqlite3(&copy, row), "ended|forgotten|1");
}

#[test]
fn dropping_a_process_kills_nothing_and_dropping_the_tracker_ends_all() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let clone = tracker.clone();
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(process.pid().get());
    drop(process);
    drop(tracker);
    assert!(!watched.is_dead());
    drop(clone);
    assert!(watched.is_dead());
    assert_eq!(place.sqlite3("SELECT end_reason FROM process"), "shutdown");
    assert_eq!(place.sqlite3("SELECT stopped_how FROM instance"), "clean");
}
