//! Pipes that stay open, and pipes that fill up.

use std::time::{Duration, Instant};

use procledger::{ExitStatus, Stdio, Tracker};

use crate::support::{Place, is_alive};

#[test]
fn a_grandchild_that_holds_stdout_does_not_delay_the_waiter() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = "setsid sleep 3600 & echo $! > daemon; echo said; exit 3";
    let job = place.job("holds", script).stdout(Stdio::piped()).keep_strays(true);
    let process = tracker.spawn(job).expect("spawned");
    let started = Instant::now();
    let output = process.wait_with_output().expect("read");
    // Not a bound on speed: without the rule it would be the hour for which the grandchild sleeps.
    assert!(started.elapsed() < Duration::from_mins(1));
    assert_eq!(
        (output.exit.status, output.stdout.as_slice()),
        (ExitStatus::Exited(3), &b"said\n"[..])
    );
    let daemon = place.watch("daemon");
    assert!(is_alive(daemon.pid()), "what is kept on purpose lives");
    daemon.kill();
}

#[test]
fn ten_megabytes_on_both_pipes_at_once_are_read_completely() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let script = "head -c 10000000 /dev/zero & head -c 10000000 /dev/zero >&2 & wait; exit 4";
    let job = place.job("loud", script).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tracker.spawn(job).expect("spawned").wait_with_output().expect("read");
    assert_eq!(output.exit, ExitStatus::Exited(4));
    assert_eq!((output.stdout.len(), output.stderr.len()), (10_000_000, 10_000_000));
    assert!(output.stdout.iter().chain(&output.stderr).all(|&byte| byte == 0));
}
