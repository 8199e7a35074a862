//! A host without connections that read: its reads take turns with its writes on the one that
//! writes.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use procledger::{EndReason, Tracker};

use crate::support::{Place, is_alive, until};

#[test]
fn threads_that_write_and_read_take_turns() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).readers(0).open().expect("a ledger");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    tracker.ledger().processes().expect("a list");
                    tracker.health_pass().expect("a pass");
                }
            });
        }
        let hosts = (0..3).map(|host| {
            let (tracker, place) = (&tracker, &place);
            scope.spawn(move || {
                for number in 0..10 {
                    let job = place.job(&format!("{host}/{number}"), "exit 3");
                    let exit = tracker.spawn(job).expect("spawned").wait().expect("waited");
                    assert_eq!((exit.code(), exit.reason), (Some(3), EndReason::Exited));
                }
            })
        });
        let hosts: Vec<_> = hosts.collect();
        let all_done = hosts.into_iter().map(thread::ScopedJoinHandle::join).all(|end| end.is_ok());
        is_over.store(true, Ordering::Relaxed);
        assert!(all_done);
    });
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE exit_code = 3"), "30");
    tracker.shutdown().expect("an orderly end");
}

/// The connection that writes keeps the file open, like connections that read.
#[test]
fn a_tree_is_ended_although_the_ledger_was_removed() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).readers(0).open().expect("a ledger");
    let job = place.job("t", "sleep 3600 & echo $! > below; exec sleep 3600");
    let mut process = tracker.spawn(job).expect("spawned");
    let below = place.watch("below");
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", place.ledger().display())).expect("removed");
    }
    tracker.ledger().processes().expect("a list of the file that is open");
    let _ = process.terminate();
    until("the tree has ended", || below.is_dead() && !is_alive(process.pid().get()));
    let _ = tracker.shutdown();
}
