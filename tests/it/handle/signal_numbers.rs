//! Signals by number: those of the kernel, and no others.

use procledger::{ExitStatus, Tracker};

use crate::support::Place;

#[test]
fn real_time_signals_reach_the_program() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    for number in [34, 50, 64] {
        let job = place.job(&format!("task-{number}"), "exec sleep 3600");
        let mut process = tracker.spawn(job).expect("spawned");
        process.signaller().signal(number).expect("sent");
        assert_eq!(process.wait().expect("waited"), ExitStatus::Signaled(number));
    }
    // A program that handles one.
    let job = place.job("handles", "trap 'exit 7' 34; echo > ready; while :; do sleep 0.05; done");
    let mut process = tracker.spawn(job).expect("spawned");
    place.wait_for("ready");
    process.signal(34).expect("sent");
    let status = process.wait().expect("waited");
    assert!(
        matches!(status.status, ExitStatus::Exited(7) | ExitStatus::Signaled(34)),
        "a shell that cannot trap it dies by it: {status}"
    );
    tracker.shutdown().expect("an orderly end");
}

/// Signals that the C library reserves for itself are signals of the kernel all the same.
#[test]
fn every_signal_number_of_the_kernel_can_be_sent() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let ends = |number: i32| {
        // By default ignored, or a stop.
        !matches!(number, libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH)
            && !matches!(number, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
    };
    for number in (1..=64).filter(|number| ends(*number)) {
        let job = place.job(&format!("task-{number}"), "exec sleep 3600");
        let mut process = tracker.spawn(job).expect("spawned");
        process.signal(number).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(process.wait().expect("waited"), ExitStatus::Signaled(number));
    }
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_number_that_is_not_a_signal_is_refused_in_one_line() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    for number in [0, -1, 65, 128, i32::MAX, i32::MIN] {
        let error = process.signal(number).expect_err("no signal");
        assert!(error.is_invalid_input(), "{error}");
        assert_eq!(error.to_string(), format!("{number} is not a signal number: use 1 to 64"));
    }
    assert_eq!(process.try_wait().expect("looked"), None, "nothing was sent");
    process.signal(9).expect("sent");
    process.wait().expect("waited");
    assert!(process.signal(64).expect_err("it has ended").is_gone());
    tracker.shutdown().expect("an orderly end");
}
