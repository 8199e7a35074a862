//! A tree is ended while `/proc` cannot be listed, though each process in it can be read. The row
//! of its root was ended all the same, and with it everything that led to the members that the scan
//! had missed.

use std::{thread, time::Duration};

use procledger::{ContainmentMode, Report, Tracker};

use crate::{
    spawn::clone2_fallback::refuse,
    support::{Host, Place, until},
};

/// A root that ends at SIGTERM, and a daemon that only the token links to it.
fn script(place: &Place) -> String {
    let folder = place.path().display();
    format!(
        "setsid sleep 3600 & echo $! > {folder}/daemon; trap 'exit 0' TERM; \
         while :; do sleep 0.02; done"
    )
}

/// Runs on a thread for which nothing can be listed.
fn blind(act: impl FnOnce() -> Report + Send) -> Report {
    let run = || {
        refuse(libc::SYS_getdents64, libc::ENOMEM);
        assert!(std::fs::read_dir("/proc").expect("opened").next().expect("an answer").is_err());
        act()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("it comes back"))
}

/// The part without the fault: passes until nothing is left.
fn settle(place: &Place, tracker: &Tracker) {
    until("the next pass finds the missed member", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3("SELECT count(*) FROM running") == "0"
    });
}

#[test]
fn a_member_missed_by_terminate_is_found_by_the_next_pass() {
    let place = Place::new();
    let builder = Tracker::builder(place.ledger()).monitor(false).grace(Duration::from_secs(20));
    let tracker = builder.containment(ContainmentMode::Session).open().expect("a ledger");
    let root = tracker.spawn(place.job("task", &script(&place))).expect("spawned").pid();
    let root = crate::support::PidfdWatch::on(root.get());
    let daemon = place.watch("daemon");
    let report = blind(|| tracker.terminate("task").expect("tried"));
    assert!(root.is_dead() && !daemon.is_dead());
    assert_eq!((report.suspects.len(), report.unverified), (1, 1), "it is reported: {report:?}");
    let why = &report.suspects[0].why;
    assert!(why.starts_with("it has ended, but the scan for its descendants failed"), "{why}");
    assert_eq!(place.sqlite3("SELECT state, last_error IS NOT NULL FROM process"), "running|1");

    settle(&place, &tracker);
    assert!(daemon.is_dead());
    // It had not ended by itself, whichever instance records that.
    let row = "SELECT end_reason, end_rule FROM history WHERE NOT descendant";
    assert_eq!(place.sqlite3(row), "terminated|its owner asked");
    assert_eq!(
        place.sqlite3("SELECT task_id, kind, pid FROM leaks"),
        format!("task|stray|{}", daemon.pid())
    );
}

#[test]
fn a_member_missed_by_a_reap_is_found_by_the_next_pass() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session");
    let root = host.spawn("task", &script(&place));
    let daemon = place.watch("daemon");
    host.crash();
    let builder = Tracker::builder(place.ledger()).monitor(false).grace(Duration::from_secs(20));
    let tracker = builder.reap_on_open(false).open().expect("a ledger");
    blind(|| tracker.reap_orphans().expect("tried"));
    assert!(root.is_dead() && !daemon.is_dead());
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
    // The scan fails again: no row is closed on the way.
    blind(|| tracker.health_pass().expect("a pass"));
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");

    settle(&place, &tracker);
    assert!(daemon.is_dead());
    let leaks = format!("SELECT kind FROM leaks WHERE pid = {}", daemon.pid());
    assert_eq!(place.sqlite3(&leaks), "orphan");
}
