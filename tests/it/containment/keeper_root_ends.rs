//! A program under a keeper ends, or is ended, and leaves daemons that only the keeper leads to.

use procledger::ExitStatus;

use crate::{
    containment::keepers::{daemon, keepers, kept},
    support::{PidfdWatch, Place, eventually, stays, until},
};

#[test]
fn a_daemon_without_session_and_token_is_a_stray_of_its_task() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!(
        "{}; while [ ! -s daemon.pid ]; do sleep 0.05; done; exit 0",
        daemon(&place, "daemon.pid")
    );
    let mut process = tracker.spawn(place.job("leaves", &script)).expect("spawned");
    assert_eq!(process.wait().expect("waited"), ExitStatus::Exited(0));
    until("the stray is ended", || place.alive().is_empty());
    let leaks = "SELECT task_id, kind, outcome, evidence FROM leaks";
    eventually("it is recorded", || (!place.sqlite3(leaks).is_empty()).then_some(()));
    assert!(place.sqlite3(leaks).starts_with("leaves|stray|term|"), "{}", place.sqlite3(leaks));
    assert_eq!(
        place.sqlite3("SELECT end_reason, exit_code FROM process WHERE root IS NULL"),
        "exited|0"
    );
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn kept_strays_run_on_after_their_keeper_exits() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!(
        "{}; while [ ! -s daemon.pid ]; do sleep 0.05; done; exit 0",
        daemon(&place, "daemon.pid")
    );
    let mut process =
        tracker.spawn(place.job("leaves", &script).keep_strays(true)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    process.wait().expect("waited");
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    tracker.shutdown().expect("an orderly end");
    stays("the daemon lives", || !daemon.is_dead());
}

#[test]
fn a_task_registered_below_another_tasks_program_is_not_its_stray() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script =
        format!("{}; while [ ! -e go ]; do sleep 0.05; done; exit 0", daemon(&place, "daemon.pid"));
    let mut process = tracker.spawn(place.job("starter", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    tracker.register("of-its-own", daemon.pid()).expect("registered");
    std::fs::write(place.path().join("go"), "").expect("the sign");
    process.wait().expect("waited");
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    stays("the other task lives", || !daemon.is_dead());
    tracker.shutdown().expect("an orderly end");
    assert!(daemon.is_dead(), "a shutdown ends it like every task");
}

#[test]
fn an_unregistered_task_runs_on_and_its_keeper_exits() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(process.pid().get());
    assert!(tracker.unregister("task").expect("written"));
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    tracker.shutdown().expect("an orderly end");
    stays("the program lives", || !watched.is_dead());
}

#[test]
fn a_requested_end_reaches_the_daemon_and_records_the_reason() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    let report = process.terminate().expect("ended");
    assert!(daemon.is_dead() && report.survived() == 0, "{report:?}");
    let evidence: Vec<&str> = report.endings.iter().map(|end| end.evidence.as_str()).collect();
    assert!(evidence.contains(&"below its keeper"), "{evidence:?}");
    assert_eq!(keepers(&place.ledger()), [0_u32; 0], "and its keeper with it");
}

#[test]
fn another_instances_kill_reaches_the_daemon_too() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    let killed = place.procledger(&["kill", "task"]);
    assert!(killed.status.success() && daemon.is_dead(), "{killed:?}");
    assert_eq!(process.wait().expect("waited"), ExitStatus::Signaled(15));
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_health_pass_records_descendants_known_only_through_the_keeper() {
    let place = Place::new();
    let tracker = kept(&place).monitor(false).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    tracker.health_pass().expect("a pass");
    let rows = format!("SELECT task_id, origin, state FROM process WHERE pid = {}", daemon.pid());
    assert_eq!(place.sqlite3(&rows), "task|descendant|running");
    tracker.shutdown().expect("an orderly end");
    assert!(daemon.is_dead());
}
