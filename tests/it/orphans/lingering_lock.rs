//! The lock of a host that has just died may be held for a moment longer: a child at its gate has a
//! copy of it.

use std::{
    fs::File,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use procledger::Tracker;
use rustix::fs::{FlockOperation, flock};

use crate::support::{Host, PidfdWatch, Place};

/// A crashed host with one program, and its lock held by another process.
fn crash(place: &Place) -> (PidfdWatch, File) {
    let mut host = Host::start(place, "no-monitor containment=session");
    let root = host.spawn("task", "exec sleep 3600");
    let lock: PathBuf = place.path().join(place.sqlite3("SELECT lock_name FROM instance"));
    host.crash();
    let lock = File::open(lock).expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("free");
    (root, lock)
}

/// On a busy machine a restart was faster than the death of such a child: it took the dead host for
/// alive, and opened with the orphans still there.
#[test]
fn a_dead_host_was_taken_for_alive_while_its_gated_child_held_its_lock() {
    let place = Place::new();
    let (root, lock) = crash(&place);
    thread::scope(|scope| {
        scope.spawn(|| {
            // No condition can be polled: the test waits until another process waits.
            thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        let tracker = Tracker::builder(place.ledger()).open().expect("opened");
        assert!(root.is_dead(), "clean before new");
        assert_eq!(tracker.startup_report().suspects.len(), 0);
    });
}

#[test]
fn a_permanent_holder_of_a_dead_hosts_lock_is_reported_and_nothing_is_ended() {
    let place = Place::new();
    let (root, lock) = crash(&place);
    let began = Instant::now();
    let tracker = Tracker::builder(place.ledger()).open().expect("opened");
    assert!(began.elapsed() < Duration::from_secs(20), "it does not wait forever");
    assert!(!root.is_dead(), "two witnesses must agree");
    let suspects = &tracker.startup_report().suspects;
    assert_eq!(suspects.len(), 1);
    assert!(suspects[0].why.contains("its lock is still held"), "{}", suspects[0].why);
    drop(lock);
    tracker.reap_orphans().expect("a pass");
    assert!(root.is_dead());
}
