//! Jobs that run too long or use too much memory.

use std::time::Duration;

use procledger::{Ledger, Tracker};

use crate::support::{PidfdWatch, Place, is_alive, until};

const TREE: &str = "setsid sleep 3600 & echo $! > daemon; wait";

#[test]
fn a_job_that_runs_too_long_is_ended_with_its_tree() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let job = place.job("long", TREE).max_runtime(Duration::from_millis(300));
    let root = PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get());
    let daemon = place.watch("daemon");
    let patient = place.job("patient", "exec sleep 3600").max_runtime(Duration::from_hours(1));
    let patient = tracker.spawn(patient).expect("spawned");
    until("the tree is ended", || root.is_dead() && daemon.is_dead());
    let row = "SELECT end_reason FROM process WHERE task_id = 'long' AND state = 'ended'";
    until("the reason is recorded", || {
        place.sqlite3(row).lines().filter(|reason| *reason == "max_runtime").count() == 2
    });
    assert!(is_alive(patient.pid().get()));
}

#[test]
fn without_a_monitor_the_health_pass_ends_jobs_that_run_too_long() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let job = place.job("long", "exec sleep 3600").max_runtime(Duration::from_millis(1));
    let root = PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get());
    until("the limit is over", || {
        tracker.health_pass().expect("a pass");
        root.is_dead()
    });
    assert_eq!(place.sqlite3("SELECT end_reason FROM process"), "max_runtime");
}

/// It left the session and lost its parent, so that only the token linked it to the job: its memory
/// was not counted.
#[test]
fn memory_of_processes_outside_of_the_session_counts_against_the_limit() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    // The shell in between ends, so that no chain of parents leads from the root to the process
    // that uses the memory.
    let script = "(setsid /bin/sh -c 'echo $$ > hungry; (head -c 50000000 /dev/zero; echo > grown; sleep 3600) | \
                  tail -c 50000000' & exit 0); exec sleep 3600";
    let hungry = tracker.spawn(place.job("hungry", script).max_rss(40_000_000)).expect("spawned");
    let root = PidfdWatch::on(hungry.pid().get());
    let escaped = place.watch("hungry");
    // A pass that sees it grow records less than what it measures a moment later.
    until("it has grown", || place.path().join("grown").exists());
    until("a pass sees it", || {
        tracker.health_pass().expect("a pass");
        root.is_dead()
    });
    assert!(escaped.is_dead());
    let row = "SELECT end_reason, end_rule LIKE 'its tree used %', peak_mib > 38
               FROM history WHERE NOT descendant";
    assert_eq!(place.sqlite3(row), "max_rss|1|1");
    let reason = format!("SELECT end_reason FROM history WHERE pid = {}", escaped.pid());
    assert_eq!(place.sqlite3(&reason), "max_rss");
}

/// In its session, but no longer among its descendants: the daemon's parent has ended.
#[test]
fn a_pass_records_a_process_that_lost_its_parent_but_not_its_session() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let script = "(sleep 3600 & echo $! > orphan; exit 0); exec sleep 3600";
    tracker.spawn(place.job("task", script)).expect("spawned");
    let orphan = place.watch("orphan");
    until("it is recorded", || {
        tracker.health_pass().expect("a pass");
        let row = format!("SELECT count(*) FROM running WHERE pid = {}", orphan.pid());
        place.sqlite3(&row) == "1"
    });
}

#[test]
fn a_tree_that_uses_too_much_memory_is_ended_by_the_health_pass() {
    let place = Place::new();
    // With a monitor its thread for memory limits may be first.
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    // The memory is not the root's: `tail` holds the last 50 MB until its input ends.
    let script = |name| {
        format!("(head -c 50000000 /dev/zero; echo > {name}; sleep 3600) | tail -c 50000000")
    };
    let fat = tracker.spawn(place.job("fat", &script("fat")).max_rss(40_000_000)).expect("spawned");
    let fat = PidfdWatch::on(fat.pid().get());
    let roomy = tracker
        .spawn(place.job("roomy", &script("roomy")).max_rss(4_000_000_000))
        .expect("spawned");
    until("it has grown", || place.path().join("fat").exists());
    until("a pass sees it", || {
        tracker.health_pass().expect("a pass");
        fat.is_dead()
    });
    let row = "SELECT end_reason FROM process WHERE task_id = 'fat' AND root IS NULL";
    assert_eq!(place.sqlite3(row), "max_rss");
    assert!(is_alive(roomy.pid().get()));
    let peak =
        "SELECT peak_rss_bytes > 40000000 FROM process WHERE task_id = 'fat' AND root IS NULL";
    assert_eq!(place.sqlite3(peak), "1");
    let below = Ledger::open(place.ledger()).expect("a ledger").processes().expect("readable");
    assert!(below.iter().any(|row| row.spec.root.is_some()), "what is below a root is recorded");
}
