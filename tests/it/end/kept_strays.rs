//! A job that keeps its strays: they are left, recorded, and not tracked any more.

use std::fs;

use procledger::{Job, Tracker};

use crate::support::{Host, PidfdWatch, Place, until};

/// Leaves a child in its session, a daemon outside of it, and one that an earlier pass has
/// recorded.
fn job(place: &Place) -> Job {
    let script = "sleep 3601 & echo $! > early; until [ -e go ]; do sleep 0.01; done; \
                  sleep 3602 & echo $! > child; setsid sleep 3603 & echo $! > daemon; exit 0";
    place.job("keeps", script).keep_strays(true)
}

const KEPT: &str = "SELECT l.kind, l.outcome, l.rule, p.task_id, p.state, p.end_reason, p.root IS NOT NULL
    FROM leak AS l JOIN process AS p ON p.id = l.process WHERE p.command LIKE '%360%' GROUP BY p.id";

fn left(place: &Place) -> Vec<PidfdWatch> {
    ["early", "child", "daemon"].map(|name| place.watch(name)).into()
}

#[test]
fn strays_that_a_job_keeps_are_recorded_as_kept() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(job(&place)).expect("spawned");
    let early = place.watch("early");
    until("a pass has recorded one of them", || {
        tracker.health_pass().expect("a pass");
        let rows = format!("SELECT count(*) FROM process WHERE pid = {}", early.pid());
        place.sqlite3(&rows) == "1"
    });
    fs::write(place.path().join("go"), "").expect("the sign");
    process.wait().expect("ended");
    let kept = left(&place);
    until("the end is settled", || tracker.executing_count() == 0);

    let line = "stray|kept|its job keeps its strays|keeps|ended|released|1";
    assert_eq!(place.sqlite3(KEPT), [line; 3].join("\n"));
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    let report = String::from_utf8(place.procledger(&["report"]).stdout).expect("text");
    assert_eq!(report.matches("kept running").count(), 3, "{report}");

    tracker.health_pass().expect("a pass");
    tracker.shutdown().expect("shut down");
    drop(Tracker::builder(place.ledger()).open().expect("a ledger"));
    assert!(kept.iter().all(|watched| !watched.is_dead()), "what was kept was ended later");
    assert_eq!(place.sqlite3("SELECT count(*) FROM leak WHERE outcome <> 'gone'"), "3");
}

/// A shutdown before the root's end had been noticed ended the processes that the job keeps.
#[test]
fn a_shutdown_that_first_notices_the_roots_end_leaves_kept_strays() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let process = tracker.spawn(job(&place)).expect("spawned");
    let root = PidfdWatch::on(process.pid().get());
    fs::write(place.path().join("go"), "").expect("the sign");
    let kept = left(&place);
    until("the root ends", || root.is_dead());
    tracker.shutdown().expect("shut down");
    assert!(kept.iter().all(|watched| !watched.is_dead()), "what was kept was ended");
    let line = "stray|kept|its job keeps its strays|keeps|ended|released|1";
    assert_eq!(place.sqlite3(KEPT), [line; 3].join("\n"));
}

/// A kept stray is not an orphan, not even after a crash of the host that kept it.
#[test]
fn kept_strays_outlive_the_crash_of_their_host() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let folder = place.path().display();
    let script = format!("setsid sleep 3600 & echo $! > {folder}/kept");
    let root = host.spawn_as("keep", "keeps", &script);
    let kept = place.watch("kept");
    until("the root is settled", || root.is_dead() && host.ask("running") == "0");
    until("it is recorded", || place.sqlite3("SELECT count(*) FROM leaks") == "1");
    host.crash();
    Host::start(&place, "").stop();
    assert!(!kept.is_dead());
    assert_eq!(place.sqlite3("SELECT outcome FROM leaks"), "kept");
}

/// Keeping strays applies to a root that ends by itself: a requested end of the tree includes them.
#[test]
fn terminate_ends_the_whole_tree_of_a_job_that_keeps_strays() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = "setsid sleep 3600 & echo $! > daemon; wait";
    tracker.spawn(place.job("keeps", script).keep_strays(true)).expect("spawned");
    let daemon = place.watch("daemon");
    tracker.terminate("keeps").expect("terminated");
    assert!(daemon.is_dead());
}

/// Its environment is wiped and its name is searched for: still it is not a leak.
#[test]
fn a_name_match_leaves_kept_strays() {
    const NAME: &str = "end::kept_strays::a_name_match_leaves_kept_strays";
    if !crate::support::in_namespace(NAME) {
        return;
    }
    let place = Place::new();
    let name = format!("worker-{}", &place.marker()[place.marker().len() - 8..]);
    place.script(&name, "echo $$ > worker; while :; do sleep 1; done");
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = format!(
        "setsid env -i /bin/sh ./{name} >/dev/null 2>&1 & until [ -e go ]; do sleep 0.01; done"
    );
    let mut process =
        tracker.spawn(place.job("keeps", &script).keep_strays(true)).expect("spawned");
    let kept = place.watch("worker");
    until("a pass sees it below its root", || {
        tracker.health_pass().expect("a pass");
        let row = format!("SELECT count(*) FROM process WHERE pid = {}", kept.pid());
        place.sqlite3(&row) == "1"
    });
    fs::write(place.path().join("go"), "").expect("the sign");
    process.wait().expect("ended");
    until("the end is settled", || tracker.executing_count() == 0);
    let recorded = format!("SELECT outcome FROM leaks WHERE pid = {}", kept.pid());
    assert_eq!(place.sqlite3(&recorded), "kept");
    drop(tracker);
    let sweeping =
        Tracker::builder(place.ledger()).orphan_name(&name).min_age(std::time::Duration::ZERO);
    let tracker = sweeping.open().expect("a ledger");
    let report = tracker.startup_report().clone();
    assert!(!kept.is_dead(), "{report:?}");
    assert!(report.endings.is_empty(), "{report:?}");
}
