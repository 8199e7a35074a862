//! A root ends by itself and leaves processes behind.

use procledger::{ExitStatus, Tracker};

use crate::support::{Host, Place, eventually, until};

#[test]
fn strays_inside_and_outside_of_the_session_are_ended_and_recorded() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = "sleep 3600 & echo $! > child; setsid sleep 3600 & echo $! > daemon; exit 0";
    let mut process = tracker.spawn(place.job("leaves", script)).expect("spawned");
    assert_eq!(process.wait().expect("waited"), ExitStatus::Exited(0));
    until("the strays are ended", || place.alive().is_empty());
    let leaks = "SELECT DISTINCT task_id, kind, outcome FROM leaks";
    eventually("both are recorded", || {
        (place.sqlite3("SELECT count(*) FROM leaks") == "2").then_some(())
    });
    assert_eq!(place.sqlite3(leaks), "leaves|stray|term");
    let root = "SELECT end_reason, exit_code FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(root), "exited|0", "the root's end is its own");
    let rows = "SELECT DISTINCT end_reason, root IS NOT NULL FROM process WHERE root IS NOT NULL";
    assert_eq!(place.sqlite3(rows), "stray|1");
}

/// It answered that no such task runs, while the processes that the task had left were still being
/// ended.
#[test]
fn terminate_waits_for_the_strays_of_a_root_that_has_just_ended() {
    let place = Place::new();
    let grace = std::time::Duration::from_millis(700);
    let tracker = Tracker::builder(place.ledger()).grace(grace).open().expect("a ledger");
    let script = "(trap '' TERM; setsid sleep 3600 & echo $! > stray; exit 0); exit 0";
    let mut process = tracker.spawn(place.job("leaves", script)).expect("spawned");
    process.wait().expect("ended");
    let stray = place.watch("stray");
    if !stray.is_dead() {
        let report = tracker.terminate("leaves").expect("it still has something of the task");
        assert!(report.errors.is_empty(), "{report:?}");
    }
    assert!(stray.is_dead(), "terminate came back before it was dead");
    process.terminate().expect("the same by the handle");
    assert_eq!(place.sqlite3("SELECT kind, outcome FROM leaks"), "stray|kill");
    assert!(tracker.terminate("leaves").expect_err("nothing is left").is_not_found());
}

#[test]
fn a_crash_between_a_roots_end_and_its_strays_end_loses_nothing() {
    let place = Place::new();
    let mut host = Host::start(&place, "grace=1500");
    let folder = place.path().display();
    // It ignores SIGTERM, so the host is still waiting for it when it is killed.
    let script = format!(
        "trap '' TERM; setsid sleep 3600 & echo $! > {folder}/stray; \
         while [ ! -e {folder}/go ]; do sleep 0.05; done"
    );
    let root = host.spawn("leaves", &script);
    let stray = place.watch("stray");
    std::fs::write(place.path().join("go"), "").expect("the sign");
    let ending = "SELECT count(*) FROM process WHERE root IS NOT NULL AND state = 'ending'";
    eventually("the stray is recorded before it gets a signal", || {
        (place.sqlite3(ending) == "1").then_some(())
    });
    host.crash();
    assert!(root.is_dead() && !stray.is_dead());

    let next = Host::start(&place, "");
    assert!(stray.is_dead());
    let leaks = format!("SELECT task_id, outcome FROM leaks WHERE pid = {}", stray.pid());
    assert_eq!(place.sqlite3(&leaks), "leaves|kill");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    next.stop();
}
