//! A set of programs in a tokio runtime: waited for together, and ended with it.

use std::time::Duration;

use procledger::{AsyncTracker, EndReason, ProcessSet};

use crate::{
    spawn::attributes::trackers,
    support::{PidfdWatch, Place, stays, until},
};

fn asynchronous() -> impl Iterator<Item = (Place, AsyncTracker)> {
    trackers().into_iter().map(|(place, tracker, _)| (place, tracker.into_async()))
}

/// Fills a set with three trees that run until they are ended; returns their roots and a descendant
/// of each in a session of its own.
async fn fill(place: &Place, tracker: &AsyncTracker, set: &mut ProcessSet) -> Vec<PidfdWatch> {
    let mut all_watched = Vec::new();
    for number in 0..3 {
        let script = format!("setsid sleep 3600 & echo $! > below{number}; exec sleep 3600");
        let job = place.job(&format!("task{number}"), &script);
        if number == 0 {
            let process = tracker.spawn(job).await.expect("spawned");
            all_watched.push(PidfdWatch::on(process.pid().get()));
            set.add(process);
        } else {
            set.spawn(tracker, job).await.expect("spawned");
            let task = tracker.get(&format!("task{number}")).expect("a look").expect("it runs");
            all_watched.push(PidfdWatch::on(task.pid().get()));
        }
        all_watched.push(place.watch(&format!("below{number}")));
    }
    all_watched
}

const ENDS: &str =
    "SELECT count(*), end_reason, end_rule FROM process WHERE root IS NULL GROUP BY 2, 3";

#[tokio::test(flavor = "current_thread")]
async fn programs_are_returned_as_they_end() {
    for (place, tracker) in asynchronous() {
        let mut set = ProcessSet::new();
        assert!(set.join_next().await.is_none());
        let waits =
            |number: i32| format!("until [ -e go{number} ]; do sleep 0.01; done; exit {number}");
        for number in 1..=3 {
            let job = place.job(&format!("task{number}"), &waits(number));
            set.spawn(&tracker, job).await.expect("spawned");
        }
        for number in [2, 3, 1] {
            assert!(tokio::time::timeout(Duration::from_millis(5), set.join_next()).await.is_err());
            std::fs::write(place.path().join(format!("go{number}")), "").expect("a file");
            let (task, exit) = set.join_next().await.expect("one has ended");
            let exit = exit.expect("waited");
            assert_eq!((task.as_str(), exit.code()), (&*format!("task{number}"), Some(number)));
            assert_eq!(exit.reason, EndReason::Exited);
        }
        assert!(set.is_empty() && set.join_next().await.is_none());
        // One that was not started is not in it.
        let missing = procledger::Job::new("missing", "no-such-program-at-all");
        assert!(set.spawn(&tracker, missing).await.is_err_and(|error| error.is_not_started()));
        assert!(set.is_empty());
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_dropped_set_ends_its_trees() {
    for (place, tracker) in asynchronous() {
        let mut set = ProcessSet::new();
        let all_watched = fill(&place, &tracker, &mut set).await;
        let other = tracker.spawn(place.job("other", "exec sleep 3600")).await.expect("spawned");
        assert_eq!(set.len(), 3);
        drop(set);
        // Its tasks are dropped by the runtime.
        while !all_watched.iter().all(PidfdWatch::is_dead) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let expected = "3|terminated|its handle was dropped";
        until("it is recorded", || place.sqlite3(ENDS).contains(expected));
        assert!(!PidfdWatch::on(other.pid().get()).is_dead());
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_set_that_is_shut_down_returns_how_its_programs_ended() {
    for (place, tracker) in asynchronous() {
        let mut set = ProcessSet::new();
        let all_watched = fill(&place, &tracker, &mut set).await;
        let mut ended = set.shutdown().await;
        ended.sort_by(|one, other| one.0.as_str().cmp(other.0.as_str()));
        let tasks: Vec<&str> = ended.iter().map(|(task, _)| task.as_str()).collect();
        assert_eq!(tasks, ["task0", "task1", "task2"]);
        for (_, exit) in &ended {
            let exit = exit.as_ref().expect("waited");
            assert_eq!((exit.reason, exit.signal()), (EndReason::Terminated, Some(libc::SIGTERM)));
        }
        until("the trees are dead", || all_watched.iter().all(PidfdWatch::is_dead));
        until("it is recorded", || place.sqlite3(ENDS) == "3|terminated|its owner asked");
        // It can be used again.
        set.spawn(&tracker, place.job("again", "exit 4")).await.expect("spawned");
        let (_, exit) = set.join_next().await.expect("it ends");
        assert_eq!(exit.expect("waited").code(), Some(4));
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn detached_programs_outlive_the_set_and_its_runtime() {
    for (place, tracker) in asynchronous() {
        for workers in [1, 2] {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(workers).enable_all().build().expect("a runtime");
            let all_watched = runtime.block_on(async {
                let mut set = ProcessSet::new();
                let all_watched = fill(&place, &tracker, &mut set).await;
                set.detach_all();
                assert!(set.is_empty() && set.join_next().await.is_none());
                // The set can be used further, and ends what is added to it.
                let job = place.job("again", "exec sleep 3600").terminate_on_drop(true);
                set.spawn(&tracker, job).await.expect("spawned");
                let mut again = tracker.get("again").expect("a look").expect("it runs");
                drop(set);
                assert_eq!(again.wait().await.expect("ended").reason, EndReason::Terminated);
                all_watched
            });
            // The tasks that have not been dropped yet are dropped now.
            drop(runtime);
            stays("they run", || !all_watched.iter().any(PidfdWatch::is_dead));
            for number in 0..3 {
                let task = format!("task{number}");
                assert_eq!(tracker.tracker().terminate(&task).expect("ended").survived(), 0);
            }
            assert!(all_watched.iter().all(PidfdWatch::is_dead));
            for number in 0..3 {
                std::fs::remove_file(place.path().join(format!("below{number}"))).expect("removed");
            }
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_cancelled_shutdown_ends_no_program_that_is_added_later() {
    for (place, tracker) in asynchronous() {
        let mut set = ProcessSet::new();
        let job = place.job("first", "trap '' TERM; : > ready; while :; do sleep 0.1; done");
        set.spawn(&tracker, job.grace(Duration::from_millis(300))).await.expect("spawned");
        place.wait_for("ready");
        assert!(tokio::time::timeout(Duration::from_millis(50), set.shutdown()).await.is_err());
        set.spawn(&tracker, place.job("later", "until [ -e go ]; do sleep 0.01; done; exit 9"))
            .await
            .expect("spawned");
        let (task, exit) = set.join_next().await.expect("one has ended");
        assert_eq!((task.as_str(), exit.expect("waited").signal()), ("first", Some(libc::SIGKILL)));
        std::fs::write(place.path().join("go"), "").expect("a file");
        let (task, exit) = set.join_next().await.expect("the other has ended");
        assert_eq!((task.as_str(), exit.expect("waited").code()), ("later", Some(9)));
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn the_end_of_a_runtime_ends_the_programs_of_its_sets() {
    for (place, tracker, _) in trackers() {
        let tracker = tracker.into_async();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut set = ProcessSet::new();
        let all_watched = runtime.block_on(fill(&place, &tracker, &mut set));
        drop(runtime);
        until("the trees are dead", || all_watched.iter().all(PidfdWatch::is_dead));
        drop(set);
        tracker.tracker().shutdown().expect("an orderly end");
        assert!(place.sqlite3(ENDS).contains("3|terminated|its handle was dropped"));
    }
}
