//! A fork storm: up to 200 processes, each of which forks every 50 ms, and some ignore SIGTERM. One
//! call ends all of it.

#![expect(unsafe_code, reason = "processes that do nothing but fork")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

use crate::{
    containment::task_cgroups::can_use_cgroups,
    spawn::gate_host::{FOLDER, Given, HOST, MARKER, ROLE},
    support::{Place, alone, in_namespace_with_init, others, sampled, until},
};

/// On two cores, 200 of them leave little to every other test.
fn processes() -> u32 {
    sampled(60, 200)
}

const PAUSE: Duration = Duration::from_millis(50);
/// Upper bound on the life of a storm, even if the test fails.
const LIFE: Duration = Duration::from_mins(1);
const READY: &str = "the storm is up";

#[test]
fn a_fork_storm_in_a_session_is_ended_by_one_call() {
    const NAME: &str = "end::fork_storm::a_fork_storm_in_a_session_is_ended_by_one_call";
    let _alone = alone();
    if in_namespace_with_init(NAME) {
        each_time(ContainmentMode::Session);
    }
}

#[test]
fn a_fork_storm_in_a_cgroup_is_ended_by_one_call() {
    const NAME: &str = "end::fork_storm::a_fork_storm_in_a_cgroup_is_ended_by_one_call";
    let _alone = alone();
    if can_use_cgroups() && in_namespace_with_init(NAME) {
        each_time(ContainmentMode::Cgroup);
    }
}

/// In a namespace of its own.
fn each_time(containment: ContainmentMode) {
    let place = Place::new();
    let tracker =
        Tracker::builder(place.ledger()).containment(containment).open().expect("a ledger");
    let before = others();
    for round in 0..sampled(2, 10) {
        let _ = fs::remove_file(place.path().join(READY));
        tracker.spawn(storm(&place)).expect("spawned");
        // Another storm at the same time must not use up the time limit of this one.
        let stubborn = "trap '' TERM; touch stubborn; while :; do sleep 1; done";
        tracker.spawn(place.job("stubborn", stubborn)).expect("spawned");
        place.wait_for(READY);
        place.wait_for("stubborn");
        until("it storms", || others().len() >= before.len() + processes() as usize);
        let report = tracker.kill(&["storm", "stubborn"], "the test").expect("ended");
        let left = || others().into_iter().filter(|pid| !before.contains(pid)).collect::<Vec<_>>();
        let details = (&report.errors, &report.suspects);
        assert_eq!(left(), [0_u32; 0], "round {round}: {details:?}");
        assert_eq!(report.survived(), 0, "round {round}");
        thread::sleep(4 * PAUSE);
        assert_eq!(left(), [0_u32; 0], "round {round}: it came back");
        assert_eq!(tracker.ledger().roots().expect("readable").len(), 0, "round {round}");
        fs::remove_file(place.path().join("stubborn")).expect("removed");
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
}

fn storm(place: &Place) -> Job {
    Job::new("storm", std::env::current_exe().expect("this binary"))
        .args(HOST)
        .env(ROLE, "fork-storm")
        .env(FOLDER, place.path())
        .env(MARKER, place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

/// The root of the storm: it starts the others and sleeps.
pub(crate) fn body(given: &Given) {
    let end = Instant::now() + LIFE;
    let processes = processes();
    for number in 0..processes {
        // SAFETY: the child makes system calls and nothing else.
        match unsafe { libc::fork() } {
            0 => rage(number, processes, end),
            pid => assert!(pid > 0, "it forks"),
        }
    }
    fs::write(given.folder.join(READY), "").expect("the ready file");
    thread::sleep(LIFE);
}

/// Every third one ignores SIGTERM, every fifth leaves the session. Half of them hop: they fork and
/// exit, so that no process lives longer than a pause. The others stay, and start children that
/// live for two pauses.
fn rage(number: u32, processes: u32, end: Instant) -> ! {
    let pause = u32::try_from(PAUSE.as_micros()).unwrap_or(u32::MAX);
    // SAFETY: system calls that touch no memory.
    unsafe {
        if number.is_multiple_of(3) {
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
        }
        if number.is_multiple_of(5) {
            libc::setsid();
        }
        // Not all at the same moment.
        libc::usleep(pause / processes * number);
        while Instant::now() < end {
            libc::usleep(pause);
            let child = libc::fork();
            if number.is_multiple_of(2) {
                // A failed fork ends nothing.
                if child > 0 {
                    libc::_exit(0);
                }
            } else if child == 0 {
                libc::usleep(2 * pause);
                libc::_exit(0);
            } else {
                // Reaps its dead children.
                libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG);
            }
        }
        libc::_exit(0)
    }
}
