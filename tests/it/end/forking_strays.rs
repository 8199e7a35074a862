//! A root ends and leaves a process that forks and exits, as does its child, on and on (a daemon
//! does it only twice). Between the listing of all processes and the inspection of each it had
//! changed its pid and was missed: the root's row was ended, and it ran on without a row.

#![expect(unsafe_code, reason = "a process that does nothing but fork")]

use std::{
    fs,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{FOLDER, Given, HOST, MARKER, ROLE},
    support::{Place, alone, in_namespace_with_init, others, sampled, until},
};

/// Time between two forks, in microseconds: about as long as a scan takes.
const PAUSE: u32 = 500;
/// Upper bound on its life, even if the test fails; longer than any wait for its end.
const LIFE: Duration = Duration::from_mins(2);
const READY: &str = "it forks";

#[test]
fn a_stray_that_keeps_forking_while_its_dead_root_is_settled_is_ended() {
    const NAME: &str =
        "end::forking_strays::a_stray_that_keeps_forking_while_its_dead_root_is_settled_is_ended";
    let _alone = alone();
    if !in_namespace_with_init(NAME) {
        return;
    }
    let place = Place::new();
    let builder = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
    let tracker = builder.open().expect("a ledger");
    let before = others();
    for round in 0..sampled(6, 20) {
        let _ = fs::remove_file(place.path().join(READY));
        let mut process = tracker.spawn(job(&place, round)).expect("spawned");
        process.wait().expect("ended");
        until("what it left is ended", || {
            let none_new = || others().iter().all(|pid| before.contains(pid));
            // A process that has just changed its pid is missing from one listing.
            (0..5).all(|_| none_new())
        });
    }
    assert_eq!(tracker.ledger().roots().expect("readable").len(), 0);
}

/// A root that exits once the process that it leaves has begun.
fn job(place: &Place, round: u32) -> Job {
    let script = "\"$@\" & while [ ! -e \"$READY\" ]; do sleep 0.05; done";
    let own = std::env::current_exe().expect("this binary");
    Job::new(format!("round-{round}"), "/bin/sh")
        .args(["-c", script, "sh", own.to_str().expect("text")])
        .args(HOST)
        .env("READY", place.path().join(READY))
        .env(ROLE, "forks-on")
        .env(FOLDER, place.path())
        .env(MARKER, place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

pub(crate) fn body(given: &Given) -> ! {
    let end = Instant::now() + LIFE;
    fs::write(given.folder.join(READY), "").expect("the ready file");
    // SAFETY: system calls that touch no memory; each process has one thread, except that this one
    // may also have its harness.
    unsafe {
        while Instant::now() < end {
            libc::usleep(PAUSE);
            // A failed fork ends nothing.
            if libc::fork() > 0 {
                libc::_exit(0);
            }
        }
        libc::_exit(0)
    }
}
