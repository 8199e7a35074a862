//! A signal to a whole tree reaches each of its processes once, wherever they are, and no other.

use std::{collections::BTreeSet, fs};

use procledger::{EndReason, ExitStatus, Job};

use crate::{
    spawn::attributes::trackers,
    support::{PidfdWatch, Place, canary, state, until},
};

/// Adds its pid to the file `got` at each SIGUSR1, and goes on; starts no process. It is ready once
/// the file of its name exists.
const LISTENS: &str =
    "exec 3<>never; trap 'echo $$ >> got' USR1; echo $$ > $1; while :; do read x <&3; done";

fn script(place: &Place, name: &str) {
    let fifo = place.path().join("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    place.script(name, LISTENS);
}

/// A tree of three: the root, a child in its session, and a daemon in a session of its own whose
/// parent has exited.
fn tree(place: &Place, task: &str) -> Job {
    script(place, "listens");
    place.job(task, "(setsid ./listens daemon &); ./listens child & exec ./listens root")
}

fn all_watched(place: &Place) -> [PidfdWatch; 3] {
    ["root", "child", "daemon"].map(|name| {
        until(name, || fs::read(place.path().join(name)).is_ok_and(|pid| pid.ends_with(b"\n")));
        place.watch(name)
    })
}

/// The pids in the file `got`, in the order in which they got a signal.
fn got(place: &Place) -> Vec<u32> {
    let text = fs::read_to_string(place.path().join("got")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().expect("a pid")).collect()
}

#[test]
fn a_signal_reaches_each_process_of_the_tree_once_and_no_other() {
    for (place, tracker, containment) in trackers() {
        let process = tracker.spawn(tree(&place, "tree")).expect("spawned");
        let all_watched = all_watched(&place);
        let all: BTreeSet<u32> = all_watched.iter().map(PidfdWatch::pid).collect();
        let other = Place::new();
        let bystander = canary();
        let _other = tracker.spawn(tree(&other, "other")).expect("spawned");
        let others = self::all_watched(&other);
        for times in 1..=3 {
            let count = process.signal_tree(libc::SIGUSR1).expect("sent");
            assert_eq!(count, 3, "{containment}");
            until("all got it", || got(&place).len() >= 3 * times);
            assert_eq!(got(&place).len(), 3 * times);
            assert_eq!(got(&place).into_iter().collect::<BTreeSet<u32>>(), all, "{containment}");
        }
        assert_eq!(got(&other), [0_u32; 0]);
        assert!(others.iter().chain(&all_watched).all(|watched| !watched.is_dead()));
        // The whole tree is stopped, and continued, by signals as well.
        process.signal_tree(libc::SIGSTOP).expect("sent");
        until("all are stopped", || {
            all_watched.iter().all(|watched| state(watched.pid()) == Some('T'))
        });
        process.signal_tree(libc::SIGCONT).expect("sent");
        until("none is", || all_watched.iter().all(|watched| state(watched.pid()) != Some('T')));
        // Stopped once more, it can still be ended.
        process.signal_tree(libc::SIGSTOP).expect("sent");
        assert_eq!(tracker.terminate("tree").expect("ended").survived(), 0);
        assert!(
            all_watched.iter().all(PidfdWatch::is_dead)
                && others.iter().all(|watched| !watched.is_dead())
        );
        assert!(!PidfdWatch::on(bystander.pid()).is_dead());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_future_signals_the_whole_tree() {
    for (place, tracker, containment) in trackers() {
        let tracker = tracker.into_async();
        let mut process = tracker.spawn(tree(&place, "tree")).await.expect("spawned");
        let all_watched = all_watched(&place);
        assert!(process.signal_tree(libc::SIGKILL).await.expect("sent") == 3);
        let exit = process.wait().await.expect("ended");
        assert_eq!((exit.signal(), exit.reason), (Some(libc::SIGKILL), EndReason::Exited));
        until("all are dead", || all_watched.iter().all(PidfdWatch::is_dead));
        let late = process.signal_tree(libc::SIGTERM).await;
        assert!(late.is_err_and(|error| error.is_gone()), "{containment}");
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn a_protected_program_gets_no_signal_of_its_tree() {
    for (place, tracker, containment) in trackers() {
        script(&place, "spared");
        let script = "./spared child & exec sleep 3600";
        let job = place.job("tree", script).protect("spared");
        let mut process = tracker.spawn(job).expect("spawned");
        until("it listens", || fs::read(place.path().join("child")).is_ok_and(|it| !it.is_empty()));
        let child = place.watch("child");
        assert_eq!(process.signal_tree(libc::SIGINT).expect("sent"), 1, "{containment}");
        assert_eq!(process.wait().expect("ended"), ExitStatus::Signaled(libc::SIGINT));
        assert!(!child.is_dead() && got(&place).is_empty());
        child.kill();
    }
}

#[test]
fn a_signal_that_does_not_exist_and_a_tree_that_has_ended_are_refused() {
    let place = Place::new();
    let tracker = procledger::Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    for number in [-1, 0, 65, i32::MAX] {
        let error = process.signal_tree(number).expect_err("no signal");
        assert!(error.is_invalid_input(), "{number}: {error}");
    }
    assert_eq!(process.signal_tree(libc::SIGTERM).expect("sent"), 1);
    assert_eq!(process.wait().expect("ended"), ExitStatus::Signaled(libc::SIGTERM));
    assert!(process.signal_tree(libc::SIGTERM).is_err_and(|error| error.is_gone()));
}
