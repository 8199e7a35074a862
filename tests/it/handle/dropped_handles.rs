//! `Job::terminate_on_drop`: a program ends with its handle, wherever that is dropped.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use procledger::{AsyncTracker, ContainmentMode, Job, Tracker};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    containment::keepers::KEEPER,
    support::{PidfdWatch, Place, alone, until},
};

const RULE: &str = "SELECT DISTINCT end_reason, end_rule FROM history WHERE NOT descendant";
const DROPPED: &str = "terminated|its handle was dropped";

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn containments() -> Vec<ContainmentMode> {
    let root = rustix::process::geteuid().is_root();
    let cgroup = root.then_some(ContainmentMode::Cgroup);
    [ContainmentMode::Session, ContainmentMode::Keeper].into_iter().chain(cgroup).collect()
}

fn tracker(place: &Place, containment: ContainmentMode) -> Tracker {
    let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
    tracker.open().expect("a ledger")
}

fn tree(place: &Place, task: &str) -> Job {
    place.job(task, "setsid sleep 3600 & sleep 3600 & exec sleep 3600").terminate_on_drop(true)
}

#[test]
fn a_dropped_handle_ends_the_whole_tree_and_no_other() {
    for containment in containments() {
        let place = Place::new();
        let tracker = tracker(&place, containment);
        let kept = tracker.spawn(place.job("kept", "exec sleep 3600")).expect("spawned");
        let kept = PidfdWatch::on(kept.pid().get());
        let job = place.job("tree", "setsid sleep 3600 & echo $! > daemon; wait");
        let process = tracker.spawn(job.terminate_on_drop(true)).expect("spawned");
        let (root, daemon) = (PidfdWatch::on(process.pid().get()), place.watch("daemon"));
        let began = Instant::now();
        drop(process);
        assert!(began.elapsed() < Duration::from_millis(500), "a drop does not wait");
        until("the tree is dead", || root.is_dead() && daemon.is_dead());
        until("it is recorded", || place.sqlite3(RULE) == DROPPED);
        assert!(!kept.is_dead(), "{containment:?}: without the option nothing is ended");
        // The task can be started again.
        let again = tracker.spawn(place.job("tree", "exit 0")).expect("spawned").wait();
        assert!(again.expect("waited").success());
        tracker.shutdown().expect("an orderly end");
    }
}

/// 49 of 60 cancelled spawns left a program without a handle.
#[test]
fn a_cancelled_spawn_leaves_no_program() {
    let _alone = alone();
    for containment in containments() {
        let place = Place::new();
        let runtime = runtime();
        let tracker = tracker(&place, containment).into_async();
        let handles = runtime.block_on(async {
            let mut handles = Vec::new();
            for number in 0..60_u32 {
                // From before the child is created to after its row is committed.
                let patience = Duration::from_micros(60) * number;
                let spawn = tracker.spawn(tree(&place, &format!("task-{number}")));
                if let Ok(process) = timeout(patience, spawn).await {
                    handles.push(process.expect("spawned"));
                }
            }
            handles
        });
        let kept: Vec<PidfdWatch> =
            handles.iter().map(|handle| PidfdWatch::on(handle.pid().get())).collect();
        until("only what has a handle runs", || {
            let running = place.sqlite3("SELECT count(*) FROM running WHERE NOT descendant");
            running == kept.len().to_string() && tracker.tracker().executing_count() == kept.len()
        });
        assert!(kept.iter().all(|watched| !watched.is_dead()), "{containment:?}");
        drop(handles);
        until("nothing runs", || place.alive().is_empty());
        runtime.block_on(tracker.shutdown()).expect("an orderly end");
        let wrong = "SELECT count(*) FROM history WHERE end_rule IS NOT 'its handle was dropped'
                     AND NOT descendant AND end_reason NOT IN ('failed', 'exited')";
        assert_eq!(place.sqlite3(wrong), "0", "{containment:?}");
    }
}

/// By contrast, without the option a cancelled spawn runs on and stays tracked.
#[test]
fn without_the_option_a_cancelled_spawn_stays_tracked() {
    let place = Place::new();
    let runtime = runtime();
    let tracker = tracker(&place, ContainmentMode::Session).into_async();
    runtime.block_on(async {
        for number in 0..20_u32 {
            let job = place.job(&format!("task-{number}"), "exec sleep 3600");
            drop(timeout(Duration::from_micros(100) * number, tracker.spawn(job)).await);
        }
    });
    std::thread::sleep(Duration::from_millis(500));
    let ended = "SELECT count(*) FROM history WHERE end_reason IS NOT NULL";
    assert_eq!(place.sqlite3(ended), "0");
    runtime.block_on(tracker.shutdown()).expect("an orderly end");
    assert!(place.alive().is_empty());
}

/// Spawns are in progress on the runtime's blocking threads, some of them waiting for a thread.
#[test]
fn a_runtime_that_is_shut_down_while_it_spawns_leaves_no_program() {
    let _alone = alone();
    let place = Place::new();
    let tracker = tracker(&place, ContainmentMode::Session).into_async();
    for round in 0..10 {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        for number in 0..8 {
            let (tracker, job) = (tracker.clone(), tree(&place, &format!("task-{round}-{number}")));
            runtime.spawn(async move {
                let process = tracker.spawn(job).await;
                std::future::pending::<()>().await;
                drop(process);
            });
        }
        std::thread::sleep(Duration::from_millis(2 * round));
        if round % 2 == 0 {
            runtime.shutdown_background();
        } else {
            drop(runtime);
        }
    }
    until("nothing runs", || place.alive().is_empty() && tracker.tracker().executing_count() == 0);
    tracker.tracker().shutdown().expect("an orderly end");
}

#[test]
fn a_panic_ends_the_programs_of_its_handles() {
    let place = Place::new();
    let tracker = tracker(&place, ContainmentMode::Session);
    let mut all_watched = Vec::new();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let one = tracker.spawn(tree(&place, "one")).expect("spawned");
        let two = tracker.spawn(tree(&place, "two")).expect("spawned");
        all_watched.extend([&one, &two].map(|process| PidfdWatch::on(process.pid().get())));
        std::panic::resume_unwind(Box::new("lost"));
    }));
    assert!(unwound.is_err());
    until("both are dead", || all_watched.iter().all(PidfdWatch::is_dead));
    tracker.shutdown().expect("an orderly end");
    assert_eq!(place.sqlite3(RULE), DROPPED);
    assert!(place.alive().is_empty());
}

/// The tracker closes during their grace period: it waits for them, and their rule is kept.
#[test]
fn a_shutdown_waits_for_trees_that_dropped_handles_end() {
    let place = Place::new();
    let tracker = tracker(&place, ContainmentMode::Session);
    let other = tracker.clone();
    let script = "trap '' TERM; echo $$ > up; while :; do sleep 1; done";
    let job = place.job("stubborn", script).grace(Duration::from_millis(700));
    let process = tracker.spawn(job.terminate_on_drop(true)).expect("spawned");
    let watched = place.watch("up");
    // Further clones of the tracker do not matter.
    drop(tracker);
    assert!(!watched.is_dead());
    drop(process);
    other.shutdown().expect("an orderly end");
    assert!(watched.is_dead());
    assert_eq!(place.sqlite3(RULE), DROPPED);
}

#[test]
fn a_handle_that_outlives_its_tracker_ends_nothing_twice() {
    let place = Place::new();
    let tracker = tracker(&place, ContainmentMode::Session);
    let process = tracker.spawn(tree(&place, "task")).expect("spawned");
    drop(tracker);
    assert!(place.alive().is_empty(), "the last tracker has shut down");
    drop(process);
    assert_eq!(place.sqlite3(RULE), "shutdown|its owner shut down");
}

/// A program that has ended by itself may leave processes, also when its end has not been noticed
/// yet.
#[test]
fn dropping_the_handle_of_an_ended_program_leaves_its_kept_strays() {
    for monitor in [true, false] {
        let place = Place::new();
        let tracker = Tracker::builder(place.ledger()).monitor(monitor).open().expect("a ledger");
        let job = place.job("leaves", "setsid sleep 3600 & echo $! > left; exit 0");
        let process = tracker.spawn(job.keep_strays(true).terminate_on_drop(true));
        let process = process.expect("spawned");
        let (root, left) = (PidfdWatch::on(process.pid().get()), place.watch("left"));
        until("it has ended", || root.is_dead());
        drop(process);
        tracker.health_pass().expect("a pass");
        tracker.shutdown().expect("an orderly end");
        assert!(!left.is_dead(), "monitor: {monitor}");
        let reason = "SELECT end_reason FROM history WHERE NOT descendant";
        assert_eq!(place.sqlite3(reason), "exited", "monitor: {monitor}");
        left.kill();
    }
}

/// One thread per dropped handle would be one thread per stubborn tree.
#[test]
fn many_dropped_handles_are_ended_together() {
    let _alone = alone();
    let place = Place::new();
    let tracker: AsyncTracker = tracker(&place, ContainmentMode::Session).into_async();
    let script = "trap '' TERM; while :; do sleep 1; done";
    let runtime = runtime();
    let handles: Vec<_> = runtime.block_on(async {
        let mut handles = Vec::new();
        for number in 0..20 {
            let job = place.job(&format!("task-{number}"), script).grace(Duration::from_secs(1));
            handles.push(tracker.spawn(job.terminate_on_drop(true)).await.expect("spawned"));
        }
        handles
    });
    let began = Instant::now();
    drop(handles);
    until("all are dead", || place.alive().is_empty());
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    runtime.block_on(tracker.shutdown()).expect("an orderly end");
    assert_eq!(place.sqlite3(RULE), DROPPED);
}
