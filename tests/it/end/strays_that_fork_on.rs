//! A root ends and leaves a process that forks and is gone, as does its child: what a daemon does twice, this one does on and
//! on. Between the list of all processes and the look at each it had changed its number, and nobody had seen it: the root's
//! row was ended, and it ran on in no row.

#![expect(unsafe_code, reason = "a process that does nothing but fork")]

use std::{
    fs,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{FOLDER, Given, HOST, MARKER, ROLE},
    support::{Place, alone, in_namespace_with_init, is_alive, pids, until},
};

const ROUNDS: u32 = 20;
/// Between two forks, in microseconds: about as long as a look takes.
const PAUSE: u32 = 500;
/// Whatever goes wrong; longer than anybody waits for its end.
const LIFE: Duration = Duration::from_mins(2);
const READY: &str = "it forks";

#[test]
fn what_forks_and_is_gone_while_its_dead_root_is_settled_is_ended() {
    const NAME: &str =
        "end::strays_that_fork_on::what_forks_and_is_gone_while_its_dead_root_is_settled_is_ended";
    let _alone = alone();
    if !in_namespace_with_init(NAME) {
        return;
    }
    let place = Place::new();
    let builder = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
    let tracker = builder.open().expect("a ledger");
    let before = others();
    for round in 0..ROUNDS {
        let _ = fs::remove_file(place.path().join(READY));
        let mut process = tracker.spawn(job(&place, round)).expect("spawned");
        process.wait().expect("ended");
        until("what it left is ended", || {
            let none_new = || others().iter().all(|pid| before.contains(pid));
            // Whoever has just changed its number is not in one list.
            (0..5).all(|_| none_new())
        });
    }
    assert_eq!(tracker.running().expect("readable").len(), 0);
}

/// A root that is gone once what it leaves has begun.
fn job(place: &Place, round: u32) -> Job {
    let script = "\"$@\" & while [ ! -e \"$READY\" ]; do sleep 0.01; done";
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

/// Everybody in the namespace but its init and this process.
fn others() -> Vec<u32> {
    let own = std::process::id();
    pids().into_iter().filter(|&pid| pid != 1 && pid != own && is_alive(pid)).collect()
}

pub(crate) fn body(given: &Given) -> ! {
    let end = Instant::now() + LIFE;
    fs::write(given.folder.join(READY), "").expect("told");
    // SAFETY: system calls that touch no memory; each process has one thread, this one at the most its harness beside.
    unsafe {
        while Instant::now() < end {
            libc::usleep(PAUSE);
            // A fork that is refused ends nothing.
            if libc::fork() > 0 {
                libc::_exit(0);
            }
        }
        libc::_exit(0)
    }
}
