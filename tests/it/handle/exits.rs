//! A wait returns how a program ended and why, to any number of threads, by handle and by task.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use procledger::{Containment, EndReason, Exit, ExitStatus, Job, Process, Resource, Tracker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    spawn::attributes::trackers,
    support::{GRACE, PidfdWatch, Place},
};

/// Spawns a task that runs until it is ended.
fn runs(place: &Place, tracker: &Tracker, task: &str) -> Process {
    tracker.spawn(place.job(task, "exec sleep 3600")).expect("spawned")
}

fn rule(exit: &Exit) -> &str {
    exit.because.as_ref().map_or("", |because| &because.rule)
}

/// Causes an exit for each reason.
fn reasons(place: &Place, tracker: &Tracker, containment: Containment) {
    let mut exited = tracker.spawn(place.job("exits", "exit 7")).expect("spawned");
    let exit = exited.wait().expect("ended");
    assert_eq!((exit.code(), exit.reason, rule(&exit)), (Some(7), EndReason::Exited, ""));
    assert_eq!(exited.wait().expect("again"), exit);

    let mut signalled = runs(place, tracker, "signalled");
    signalled.signal(libc::SIGINT).expect("sent");
    let exit = signalled.wait().expect("ended");
    assert_eq!((exit.signal(), exit.reason), (Some(libc::SIGINT), EndReason::Exited));

    let mut terminated = runs(place, tracker, "terminated");
    terminated.terminate().expect("ended");
    let exit = terminated.wait().expect("ended");
    assert_eq!((exit.reason, rule(&exit)), (EndReason::Terminated, "its owner asked"));
    assert_eq!(exit, ExitStatus::Signaled(libc::SIGTERM));

    let mut killed = runs(place, tracker, "killed");
    tracker.kill(&["killed"], "ann").expect("killed");
    let exit = killed.wait().expect("ended");
    assert_eq!((exit.reason, exit.requested_by.as_deref()), (EndReason::Killed, Some("ann")));

    let mut killed = runs(place, tracker, "killed by another instance");
    let other = place.procledger(&["kill", "killed by another instance"]);
    assert!(other.status.success(), "{other:?}");
    let exit = killed.wait().expect("ended");
    assert_eq!(exit.reason, EndReason::Killed, "{containment}: {exit:?}");
    assert!(exit.requested_by.is_some());

    let job = place.job("slow", "exec sleep 3600").max_runtime(Duration::from_millis(50));
    let exit = tracker.spawn(job).expect("spawned").wait().expect("ended");
    assert_eq!(exit.reason, EndReason::MaxRuntime, "{exit:?}");
    assert!(exit.to_string().starts_with("signal 15 (max_runtime: "), "{exit}");

    let fills = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 3600";
    let job = place.job("large", fills).max_rss(20 << 20);
    let exit = tracker.spawn(job).expect("spawned").wait().expect("ended");
    let by_kernel = exit.reason == EndReason::Oom && containment == Containment::Cgroup;
    assert!(by_kernel || exit.reason == EndReason::MaxRss, "{containment}: {exit:?}");
    assert!(exit.because.is_some());

    let job = place.job("dropped", "exec sleep 3600").terminate_on_drop(true);
    let dropped = tracker.spawn(job).expect("spawned");
    let mut other = tracker.get("dropped").expect("a look").expect("it runs");
    drop(dropped);
    let exit = other.wait().expect("ended");
    assert_eq!((exit.reason, rule(&exit)), (EndReason::Terminated, "its handle was dropped"));
}

#[test]
fn a_wait_returns_why_a_program_ended() {
    for (place, tracker, containment) in trackers() {
        reasons(&place, &tracker, containment);
        let mut process = runs(&place, &tracker, "last");
        let waiter = thread::spawn(move || process.wait().expect("ended"));
        tracker.shutdown().expect("an orderly end");
        assert_eq!(waiter.join().expect("ended").reason, EndReason::Shutdown);
    }
}

#[test]
fn a_wait_returns_the_reason_while_the_rest_of_the_tree_is_being_ended() {
    for (place, tracker, _) in trackers() {
        // Its row ends with its tree, whose other member obeys no SIGTERM: the grace is longer than
        // a wait waits for the row.
        let script = "(trap '' TERM; : > ready; while :; do sleep 0.05; done) & exec sleep 3600";
        let job = place.job("task", script).grace(Duration::from_secs(3));
        let mut process = tracker.spawn(job).expect("spawned");
        place.wait_for("ready");
        let mut other = tracker.get("task").expect("a look").expect("it runs");
        let ends = thread::spawn(move || other.terminate().expect("ended"));
        let exit = process.wait().expect("ended");
        assert_eq!((exit.reason, rule(&exit)), (EndReason::Terminated, "its owner asked"));
        assert_eq!(ends.join().expect("ended").survived(), 0);
        assert_eq!(process.wait().expect("again"), exit);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_future_resolves_to_why_a_program_ended() {
    for (place, tracker, containment) in trackers() {
        let tracker = tracker.into_async();
        let mut process = tracker.spawn(place.job("exits", "exit 7")).await.expect("spawned");
        let exit = process.wait().await.expect("ended");
        assert_eq!((exit.code(), exit.reason), (Some(7), EndReason::Exited));
        assert_eq!(process.try_wait().expect("again"), Some(exit));

        let job = place.job("slow", "exec sleep 3600").max_runtime(Duration::from_millis(50));
        let mut slow = tracker.spawn(job).await.expect("spawned");
        assert_eq!(slow.wait().await.expect("ended").reason, EndReason::MaxRuntime);

        let mut killed = tracker.spawn(place.job("k", "exec sleep 3600")).await.expect("spawned");
        let mut other = tracker.get("k").expect("a look").expect("it runs");
        assert_ne!(killed.id(), process.id());
        let kill = tracker.run(|tracker| tracker.kill(&["k"], "ann"));
        let (one, two, three, report) =
            tokio::join!(killed.wait(), other.wait(), tracker.wait("k"), kill);
        report.expect("killed");
        let exit = one.expect("ended");
        assert_eq!((exit.reason, exit.requested_by.as_deref()), (EndReason::Killed, Some("ann")));
        assert_eq!((&two.expect("ended"), &three.expect("ended")), (&exit, &exit), "{containment}");
        assert_eq!(tracker.wait("k").await.expect("ended").reason, EndReason::Killed);
        assert!(tracker.wait("never").await.is_err_and(|error| error.is_not_found()));

        let mut dies = tracker.spawn(place.job("dies", "exec sleep 3600")).await.expect("spawned");
        dies.kill().await.expect("killed");
        dies.kill().await.expect("killed already");
        dies.start_kill().expect("killed already");
        assert_eq!(dies.wait().await.expect("ended"), ExitStatus::Signaled(libc::SIGKILL));
        assert!(PidfdWatch::find(dies.pid().get()).is_none_or(|watched| watched.is_dead()));
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn a_task_is_waited_for_by_many_threads_and_after_its_end() {
    for (place, tracker, _) in trackers() {
        let mut process = runs(&place, &tracker, "task");
        let waiters: Vec<_> = (0..4)
            .map(|number| {
                let tracker = tracker.clone();
                let handle = tracker.get("task").expect("a look").expect("it runs");
                thread::spawn(move || {
                    let mut handle = handle;
                    if number % 2 == 0 { handle.wait() } else { tracker.wait("task") }
                })
            })
            .collect();
        process.kill().expect("killed");
        let exit = process.wait().expect("ended");
        process.kill().expect("it is dead already, as std's");
        process.signaller().kill().expect("the same");
        assert!(process.signal(libc::SIGKILL).is_err_and(|error| error.is_gone()));
        for waiter in waiters {
            assert_eq!(waiter.join().expect("no panic").expect("ended"), exit);
        }
        assert_eq!(exit, ExitStatus::Signaled(libc::SIGKILL));
        crate::support::until("it is released", || tracker.get("task").expect("a look").is_none());
        assert_eq!(tracker.wait("task").expect("its row"), exit);
        // The last run counts.
        tracker.spawn(place.job("task", "exit 3")).expect("spawned");
        assert_eq!(tracker.wait("task").expect("ended"), ExitStatus::Exited(3));
        assert!(tracker.wait("never").is_err_and(|error| error.is_not_found()));
        assert!(tracker.wait("").is_err_and(|error| error.is_invalid_input()));
        assert!(tracker.get("never").expect("a look").is_none());
    }
}

#[test]
fn a_handle_by_task_has_no_effect_when_it_is_dropped() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let job = place.job("task", "exec sleep 3600").terminate_on_drop(true);
    let process = tracker.spawn(job).expect("spawned");
    drop(tracker.get("task").expect("a look").expect("it runs"));
    tracker.health_pass().expect("a pass");
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
    // A registered process has one too.
    let mut child = place.child("exec sleep 3600");
    tracker.register("registered", child.pid()).expect("registered");
    let mut registered = tracker.get("registered").expect("a look").expect("it runs");
    assert_eq!(registered.pid().get(), child.pid());
    registered.kill().expect("killed");
    child.0.wait().expect("reaped");
    assert_eq!(registered.wait().expect("ended").reason, EndReason::Exited);
    drop(process);
}

#[test]
fn a_pidfd_of_a_handle_can_be_polled() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = runs(&place, &tracker, "task");
    let readable = |process: &Process, seconds| {
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).expect("polled") == 1
    };
    assert!(!readable(&process, 0));
    process.kill().expect("killed");
    assert!(readable(&process, 30));
}

#[test]
fn a_core_dump_is_reported_as_by_std_and_recorded() {
    let crash = "ulimit -c unlimited 2>/dev/null; kill -SEGV $$";
    for (place, tracker, containment) in trackers() {
        let std = Command::new("/bin/sh")
            .args(["-c", crash])
            .current_dir(place.path())
            .stderr(Stdio::null())
            .status()
            .expect("a shell");
        let exit = tracker.spawn(place.job("task", crash)).expect("spawned").wait().expect("ended");
        assert_eq!(exit, ExitStatus::from(std));
        assert_eq!(exit.core_dumped, std.core_dumped(), "{containment}");
        assert_eq!(std::process::ExitStatus::try_from(exit.clone()).expect("observed"), std);
        // The ledger has it as well: for a waiter that comes later, in the row, and in JSON.
        assert_eq!(tracker.wait("task").expect("it has ended"), exit);
        let rows = tracker.ledger().history(procledger::Query::new().task_id("task"));
        let end = rows.expect("rows")[0].life.end().cloned().expect("it has ended");
        assert_eq!(end.core_dumped, std.core_dumped(), "{containment}");
        let shown = place.procledger(&["ps", "--all", "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown[0]["core_dumped"], std.core_dumped(), "{shown:#}");
        // So has one that is ended here, by a signal that dumps.
        let abort = |job: Job| job.stop_signals([(libc::SIGABRT, Duration::from_mins(1))]);
        let script = "ulimit -c unlimited 2>/dev/null; : > ready; exec sleep 3600";
        let mut process = tracker.spawn(abort(place.job("aborted", script))).expect("spawned");
        place.wait_for("ready");
        process.terminate().expect("ended");
        let exit = process.wait().expect("ended");
        assert_eq!((exit.signal(), exit.core_dumped), (Some(libc::SIGABRT), std.core_dumped()));
        assert_eq!(tracker.wait("aborted").expect("it has ended"), exit);
        let row = "SELECT exit_signal, core_dumped IS 1 FROM process WHERE task_id = 'aborted'";
        assert_eq!(place.sqlite3(row), format!("6|{}", u8::from(std.core_dumped())));
        std::fs::remove_file(place.path().join("ready")).expect("removed");
        // A limit of one byte prevents it (core(5)), in a pipe as well.
        let job = place.job("none", "kill -SEGV $$").rlimit(Resource::Core, 1, 1);
        let exit = tracker.spawn(job).expect("spawned").wait().expect("ended");
        assert!(exit == ExitStatus::Signaled(libc::SIGSEGV) && !exit.core_dumped, "{exit:?}");
    }
}

#[test]
fn a_status_converts_to_that_of_std_and_back() {
    let run = |script| Command::new("/bin/sh").args(["-c", script]).status().expect("a shell");
    for (script, status) in [
        ("exit 0", ExitStatus::Exited(0)),
        ("exit 255", ExitStatus::Exited(255)),
        ("kill -9 $$", ExitStatus::Signaled(9)),
        ("kill -64 $$", ExitStatus::Signaled(64)),
    ] {
        let std = run(script);
        assert_eq!(ExitStatus::from(std), status);
        assert_eq!(std::process::ExitStatus::try_from(status).expect("observed"), std);
    }
    let unobserved = std::process::ExitStatus::try_from(ExitStatus::Unobserved);
    assert!(unobserved.is_err_and(|error| error.is_unknown()));
    // Of a process that was stopped: `WIFSTOPPED`.
    let stopped = std::process::ExitStatus::from_raw(0x137f);
    assert_eq!(ExitStatus::from(stopped), ExitStatus::Unobserved);
}

#[test]
fn an_output_has_the_exit_of_its_program() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).grace(GRACE).open().expect("a ledger");
    let job = Job::new("task", "sh").args(["-c", "echo out; exit 4"]);
    let output = tracker
        .spawn(job.stdout(procledger::Stdio::piped()))
        .expect("spawned")
        .wait_with_output()
        .expect("ended");
    assert_eq!((output.exit.code(), output.exit.reason), (Some(4), EndReason::Exited));
    assert_eq!(output.stdout, b"out\n");
}
