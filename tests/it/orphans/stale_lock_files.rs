//! Lock files that crashes leave beside the ledger: of a host that died before it was recorded, or
//! whose reaper died before it had removed the lock. They stayed forever, since they belonged to no
//! recorded instance any more.

use std::fs::{self, File};

use procledger::Tracker;
use rustix::fs::{FlockOperation, flock};

use crate::support::Place;

#[test]
fn the_lock_of_a_host_that_died_before_it_was_recorded_stayed_forever() {
    let place = Place::new();
    let make = |random: &str| {
        let path = place.path().join(format!("ledger.db-instance-{random}.lock"));
        fs::write(&path, "").expect("a file");
        path
    };
    let stale = make(&"0a".repeat(16));
    let held = make(&"1b".repeat(16));
    // Neither of them is a name that an instance uses.
    let notes = make("notes");
    let others = place.path().join("other.db-instance-0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.lock");
    fs::write(&others, "").expect("a file");
    let lock = File::open(&held).expect("a file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");

    let tracker = Tracker::builder(place.ledger()).open().expect("opened");
    assert!(!stale.exists(), "it is not held, and it belongs to no recorded instance");
    assert!(held.exists(), "it is held by a host that is not recorded yet");
    assert!(notes.exists() && others.exists(), "not ours to remove");
    drop(lock);
    tracker.reap_orphans().expect("a pass");
    assert!(!held.exists(), "its host has died");
    let own = || {
        let names = fs::read_dir(place.path()).expect("a folder").flatten();
        names
            .filter(|name| name.file_name().to_string_lossy().starts_with("ledger.db-inst"))
            .count()
    };
    assert_eq!(own(), 2, "the notes, and the lock of the tracker itself");
    tracker.shutdown().expect("an orderly end");
    assert_eq!(own(), 1);
}
