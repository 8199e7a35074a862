//! An operation on a process fails halfway: no process may be left running.

use std::{fs::File, os::fd::OwnedFd, process::ChildStdout};

use procledger::{Stdio, Tracker};

use crate::support::{PidfdWatch, Place};

#[test]
fn a_failed_read_ends_the_whole_tree_before_the_error_is_returned() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = "setsid sleep 3600 & echo $! > daemon; sleep 3600 & echo $! > child; wait";
    let job = place.job("reads", script).stdout(Stdio::piped());
    let mut process = tracker.spawn(job).expect("spawned");
    let trees = [PidfdWatch::on(process.pid().get()), place.watch("daemon"), place.watch("child")];
    // read(2) of a folder fails with EISDIR, as a pipe does when its other side fails.
    let folder = OwnedFd::from(File::open(place.path()).expect("a folder"));
    process.stdout = Some(ChildStdout::from(folder));

    let error = process.wait_with_output().expect_err("a folder cannot be read");
    assert!(trees.iter().all(PidfdWatch::is_dead), "the whole tree is dead when the error is here");
    assert_eq!(place.alive(), [0_u32; 0]);
    assert_eq!(error.raw_os_error(), Some(21), "the error is that of the read: {error}");
    let row = "SELECT state, end_reason FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(row), "ended|terminated");
}

#[test]
fn a_program_that_cannot_start_leaves_a_failed_row() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let missing = place.path().join("missing");
    let error =
        tracker.spawn(procledger::Job::new("task", missing.as_os_str())).expect_err("not there");
    assert!(error.is_not_started(), "{error}");
    assert_eq!(error.raw_os_error(), Some(2));
    assert_eq!(place.sqlite3("SELECT state, end_reason FROM process"), "ended|failed");
    tracker.spawn(place.job("task", "exit 0")).expect("the task may be tried again");
}
