//! Many processes that open one new ledger at the same time.

use std::{
    fs,
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use super::fixture::*;
use crate::store::{Store, setup, trust};

const OPENERS: usize = 6;
const ROUNDS: usize = 150;

/// Without the setup lock, about 20 of these 900 openings fail.
#[test]
fn six_processes_open_a_new_ledger_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for round in 0..ROUNDS {
        fs::create_dir(folder.path().join(round.to_string())).expect("made");
    }
    let children: Vec<_> = (0..OPENERS)
        .map(|index| {
            let mut child = child("store::tests::together::child_that_opens_all", folder.path());
            child.env("PROCLEDGER_TEST_INDEX", index.to_string());
            thread::spawn(move || run(child))
        })
        .collect();
    for child in children {
        child.join().expect("every opening succeeded");
    }
}

#[test]
fn child_that_opens_all() {
    let Some(folder) = given_folder() else { return };
    let index = std::env::var("PROCLEDGER_TEST_INDEX").expect("given");
    for round in 0..ROUNDS {
        let folder = folder.join(round.to_string());
        meet(&folder, &index);
        open_and_write(&folder, round);
    }
}

/// Waits until all processes are here, so that they begin together.
fn meet(folder: &Path, index: &str) {
    fs::write(folder.join(format!("here-{index}")), "").expect("written");
    let deadline = Instant::now() + Duration::from_mins(1);
    while (0..OPENERS).any(|index| !folder.join(format!("here-{index}")).exists()) {
        assert!(Instant::now() < deadline, "one of the openers did not come");
        thread::yield_now();
    }
}

fn open_and_write(folder: &Path, round: usize) {
    let store = open(&file(folder, "")).unwrap_or_else(|e| panic!("round {round}: {e:?}"));
    store
        .add_instance(&instance("opener", here(), 1))
        .unwrap_or_else(|e| panic!("round {round}, writing: {e:?}"));
}

#[test]
fn six_threads_open_a_new_ledger_at_once() {
    for round in 0..20 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let barrier = Arc::new(Barrier::new(OPENERS));
        let threads: Vec<_> = (0..OPENERS)
            .map(|_| {
                let (barrier, folder) = (Arc::clone(&barrier), folder.path().to_owned());
                thread::spawn(move || {
                    barrier.wait();
                    open_and_write(&folder, round);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no error");
        }
        let store = Store::open_read_only(&file(folder.path(), "")).expect("opened");
        assert_eq!(store.instances_to_check().expect("read").len(), OPENERS, "none was lost");
    }
}

/// A process that saw the new file empty, and its WAL filled a moment later, used to take it for a
/// ledger that had been emptied.
#[test]
fn a_ledger_that_was_set_up_since_our_check_is_not_reported_as_emptied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    fs::write(&path, "").expect("written");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, permissions).expect("set");
    let before = trust::Located::at(&path, &trust::TrustPolicy::of(&path, None)).expect("seen");
    let store = open(&path).expect("set up by another program");
    store.add_instance(&instance("opener", here(), 1)).expect("written");
    assert!(
        matches!(setup::status(&before), Ok(setup::SchemaStatus::New)),
        "it is inspected again"
    );
}
