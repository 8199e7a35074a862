//! A host's process group is stopped and continued while it spawns. A child that the stop catches
//! just before it leaves the group misses the SIGCONT, and its caller, which sleeps until the child
//! execs, used to hang forever.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use procledger::{Job, Stdio as Standard};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    spawn::gate_host::{Given, command},
    support::{Guard, PATIENCE, Place, sampled},
};

fn spawns() -> u32 {
    sampled(100, 300)
}

#[test]
fn stopping_and_continuing_a_group_hangs_no_spawn() {
    let place = Place::new();
    stop_and_continue(&place, command(&place, "stopped-group"));
}

pub(crate) fn stop_and_continue(place: &Place, mut host: Command) {
    let child = host.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut host = Guard(child.expect("a host"));
    // The group is the host's own, and its pid cannot be reused: the host is our child, and not
    // reaped yet.
    let group = Pid::from_raw(i32::try_from(host.pid()).expect("a pid")).expect("a pid");
    let deadline = Instant::now() + PATIENCE * 4;
    while host.is_running() {
        assert!(Instant::now() < deadline, "a spawn hangs");
        for signal in [Signal::STOP, Signal::CONT] {
            kill_process_group(group, signal).expect("its own group");
            thread::sleep(Duration::from_micros(300));
        }
    }
    assert!(host.0.wait().expect("reaped").success());
    let rows = "SELECT state, end_reason, exit_code, count(*) FROM process GROUP BY 1, 2, 3";
    assert_eq!(place.sqlite3(rows), format!("ended|exited|0|{}", spawns()));
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    for number in 0..spawns() {
        let job = Job::new(format!("task-{number}"), "/bin/true")
            .keep_strays(true)
            .stdin(Standard::null())
            .stdout(Standard::null());
        assert!(tracker.spawn(job).and_then(|mut one| one.wait()).expect("it runs").success());
    }
    tracker.shutdown().expect("an orderly end");
}
