//! A suspended tree does not run until it is resumed, and every way to end or release it resumes it
//! first.

use std::{fs, thread, time::Duration};

use procledger::{Containment, EndPlan, EndReason, Job, Process, Tracker};

use crate::{
    end::stop_signals::{all_watched, another, ended_by_both, enforce_limit, prepare, start, tree},
    spawn::{
        attributes::{trackers, trackers_with},
        gate_host::{self, Given},
    },
    support::{Guard, PidfdWatch, Place, state, stays, until},
};

/// Writes a line to the file of its name every hundredth of a second, by a new process each time.
const BEATS: &str = "while :; do echo >> $1; sleep 0.01; done";
const NAMES: [&str; 3] = ["root", "child", "daemon"];

/// A root, a child in its session, and a daemon in a session of its own whose parent has exited;
/// each of them forks all the time.
fn beats(place: &Place, task: &str) -> Job {
    place.script("beats", BEATS);
    place.job(task, "(setsid ./beats daemon &); ./beats child & exec ./beats root")
}

fn lengths(place: &Place) -> [u64; 3] {
    NAMES.map(|name| fs::metadata(place.path().join(name)).map_or(0, |file| file.len()))
}

/// Waits until each of them has written since then.
fn all_beat(place: &Place, since: [u64; 3]) {
    until("all of it runs", || lengths(place).iter().zip(since).all(|(now, then)| *now > then));
}

#[test]
fn a_constantly_forking_tree_is_suspended_as_a_whole_and_resumed() {
    for (place, tracker, containment) in trackers() {
        let process = tracker.spawn(beats(&place, "tree")).expect("spawned");
        let other = Place::new();
        let _other = tracker.spawn(beats(&other, "other")).expect("spawned");
        all_beat(&place, [0; 3]);
        for _ in 0..3 {
            let count = process.suspend().expect("suspended");
            assert!(count >= 3, "{containment}: {count}");
            let (before, others) = (lengths(&place), lengths(&other));
            all_beat(&other, others);
            stays("suspended", || lengths(&place) == before);
            // A second call is not an error.
            assert!(process.suspend().expect("suspended") >= 3);
            // By another handle.
            let handle = tracker.get("tree").expect("a look").expect("it runs");
            assert!(handle.resume().expect("resumed") >= 3);
            all_beat(&place, before);
        }
        assert_eq!(tracker.terminate("tree").expect("ended").survived(), 0);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn futures_suspend_and_resume_a_tree() {
    for (place, tracker, containment) in trackers() {
        let tracker = tracker.into_async();
        let process = tracker.spawn(beats(&place, "tree")).await.expect("spawned");
        all_beat(&place, [0; 3]);
        assert!(process.suspend().await.expect("suspended") >= 3, "{containment}");
        let before = lengths(&place);
        stays("suspended", || lengths(&place) == before);
        assert!(process.resume().await.expect("resumed") >= 3);
        all_beat(&place, before);
        process.suspend().await.expect("suspended");
        tracker.shutdown().await.expect("an orderly end");
        assert_eq!(place.alive(), [0_u32; 0]);
        assert!(process.suspend().await.is_err_and(|error| error.is_closed()));
    }
}

#[test]
fn every_way_to_end_a_suspended_tree_resumes_it_so_that_it_can_clean_up() {
    type End = fn(&Place, &Tracker, Process);
    let ends: [(&str, End); 6] = [
        ("terminate", |_, _, mut process| drop(process.terminate().expect("ended"))),
        ("the root first", |_, tracker, _| {
            let plan = EndPlan::new().root_first(true);
            tracker.terminate_with("tree", &plan).expect("ended");
        }),
        ("a dropped handle", |_, _, process| drop(process)),
        ("a kill by another instance", |place, _, _| {
            another(place).kill(&["tree"], "the operator").expect("ended");
        }),
        ("a limit", |_, tracker, _| enforce_limit(tracker, "tree")),
        ("a shutdown", |_, tracker, _| drop(tracker.shutdown().expect("an orderly end"))),
    ];
    for (what, end) in ends {
        // Without a monitor a limit is enforced when the test says so.
        for (place, tracker, containment) in trackers_with(|it| it.monitor(what != "a limit")) {
            let set = |job: Job| {
                let job = job.terminate_on_drop(what == "a dropped handle");
                if what == "a limit" { job.max_runtime(Duration::from_millis(1)) } else { job }
            };
            let (process, all) = start(&place, &tracker, set);
            assert_eq!(process.suspend().expect("suspended"), 3, "{what}, {containment}");
            end(&place, &tracker, process);
            ended_by_both(&place, &all, &format!("{what}, {containment}"));
        }
    }
}

/// A root that waits for its helper in order to end must find it running.
#[test]
fn with_root_first_the_suspended_helpers_of_the_root_are_resumed() {
    for (place, tracker, containment) in trackers() {
        let helper = "(while [ ! -e ask ]; do sleep 0.05; done; : > answer) &";
        let root =
            "trap ': > ask; wait $!; while [ ! -e answer ]; do sleep 0.05; done; exit 7' TERM";
        let script = format!("{helper} {root}; : > ready; while :; do sleep 0.01; done");
        let job = place.job("task", &script).root_first(true).grace(Duration::from_mins(10));
        let mut process = tracker.spawn(job).expect("spawned");
        place.wait_for("ready");
        process.suspend().expect("suspended");
        assert_eq!(process.terminate().expect("ended").survived(), 0);
        assert_eq!(process.wait().expect("ended").code(), Some(7), "{containment}");
    }
}

#[test]
fn after_a_crash_of_its_host_a_suspended_tree_is_resumed_and_ended() {
    let usable: Vec<Containment> = trackers().into_iter().map(|(_, _, it)| it).collect();
    for containment in usable {
        let place = Place::new();
        prepare(&place);
        let mut host = gate_host::command(&place, "suspended");
        host.env("PROCLEDGER_CONTAINMENT", containment.as_str());
        let mut host = Guard(host.stdin(std::process::Stdio::null()).spawn().expect("a host"));
        let all = all_watched(&place);
        fs::write(place.path().join("all-listen"), "").expect("a file");
        place.wait_for("suspended");
        host.0.kill().expect("killed");
        host.0.wait().expect("reaped");
        if containment == Containment::Keeper {
            until("its keeper ends it", || all.iter().all(PidfdWatch::is_dead));
        }
        let _tracker = another(&place);
        ended_by_both(&place, &all, containment.as_str());
    }
}

pub(crate) fn leave(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let process = tracker.spawn(tree(&given.folder, &given.marker)).expect("spawned");
    until("all of it listens", || given.folder.join("all-listen").exists());
    assert_eq!(process.suspend().expect("suspended"), 3);
    fs::write(given.folder.join("suspended"), "").expect("a file");
    loop {
        thread::park();
    }
}

#[test]
fn a_suspended_tree_that_a_tracker_releases_is_resumed() {
    for (place, tracker, containment) in trackers() {
        // A task that is unregistered.
        let process = tracker.spawn(beats(&place, "tree")).expect("spawned");
        all_beat(&place, [0; 3]);
        process.suspend().expect("suspended");
        let before = lengths(&place);
        drop(process);
        assert!(tracker.unregister("tree").expect("released"));
        all_beat(&place, before);

        // A program that survives its host.
        let other = Place::new();
        let job = beats(&other, "survives").survive(true);
        let process = tracker.spawn(job).expect("spawned");
        all_beat(&other, [0; 3]);
        process.suspend().expect("suspended");
        let before = lengths(&other);
        tracker.shutdown().expect("an orderly end");
        all_beat(&other, before);
        drop((process, containment));
    }
}

#[test]
fn strays_that_a_job_keeps_run_on_when_their_suspended_root_is_killed() {
    for (place, tracker, containment) in trackers() {
        let job = beats(&place, "tree").keep_strays(true);
        let mut process = tracker.spawn(job).expect("spawned");
        all_beat(&place, [0; 3]);
        process.suspend().expect("suspended");
        let before = lengths(&place);
        process.kill().expect("killed");
        let exit = process.wait().expect("ended");
        assert_eq!((exit.signal(), exit.reason), (Some(libc::SIGKILL), EndReason::Exited));
        until("the others run", || {
            let now = lengths(&place);
            now[1] > before[1] && now[2] > before[2]
        });
        assert!(!place.alive().is_empty(), "{containment}");
    }
}

#[test]
fn a_tree_that_has_ended_or_is_being_ended_is_not_suspended() {
    for (place, tracker, containment) in trackers() {
        let script = "trap ': > asked' TERM; : > ready; while :; do sleep 0.01; done";
        let job = place.job("task", script).grace(Duration::from_mins(10));
        let mut process = tracker.spawn(job).expect("spawned");
        place.wait_for("ready");
        let (handle, pid) = (tracker.get("task").expect("a look").expect("it runs"), process.pid());
        let ends = thread::spawn(move || process.terminate().expect("ended"));
        place.wait_for("asked");
        assert!(handle.suspend().is_err_and(|error| error.is_busy()), "{containment}");
        assert_ne!(state(pid.get()), Some('T'));
        let plan = EndPlan::new().grace(Duration::ZERO);
        another(&place).kill_with(&["task"], "the operator", &plan).expect("ended");
        assert_eq!(ends.join().expect("ended").survived(), 0);
        assert!(handle.suspend().is_err_and(|error| error.is_gone()));
        assert!(handle.resume().is_err_and(|error| error.is_gone()));
    }
}
