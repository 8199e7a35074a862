//! A program that forks again on each SIGTERM, out of its session and without a token, outlived its
//! keeper: the host released the keeper whenever it had found no process.

use std::{path::PathBuf, time::Duration};

use procledger::{Process, Tracker};

use crate::{
    containment::keepers::{HOST, keepers, kept},
    support::{Host, Place, at_once, need, stays, until},
};

/// Each SIGTERM starts a chain of forks, each in a session of its own; the last one waits for the
/// next SIGTERM. The handler is inherited, so none of them is ever without it.
const ANEW: &str = r"
    #include <fcntl.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <unistd.h>
    static int forks, pause_us;
    static void on_term(int signal) {
        (void)signal;
        for (int i = 0; i < forks; i++) {
            if (fork() != 0) _exit(0);
            setsid();
            if (pause_us) usleep(pause_us);
        }
    }
    int main(int argc, char **argv) {
        struct sigaction action = { .sa_handler = on_term, .sa_flags = SA_NODEFER };
        forks = atoi(argv[2]);
        pause_us = atoi(argv[3]);
        sigaction(SIGTERM, &action, NULL);
        close(open(argv[1], O_CREAT | O_WRONLY, 0600));
        for (;;) pause();
        return argc;
    }";

/// The number of forks, and the microseconds between them.
const VARIANTS: [(u32, u32); 3] = [(1, 0), (20, 500), (200, 0)];

fn compiled(place: &Place) -> PathBuf {
    let (source, program) = (place.path().join("anew.c"), place.path().join("anew"));
    std::fs::write(&source, ANEW).expect("written");
    let built = std::process::Command::new("cc").arg("-o").args([&program, &source]).status();
    assert!(built.expect("cc").success());
    program
}

/// Shell text that becomes the program, without an environment.
fn script(place: &Place, (forks, pause): (u32, u32)) -> String {
    let (program, folder) = (compiled(place), place.path().display());
    format!("exec env -i {} {folder}/up {forks} {pause} {}", program.display(), place.marker())
}

/// The program under a keeper, waiting for its first SIGTERM.
fn started(variant: (u32, u32)) -> (Place, Tracker, Process) {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let job = place.job("task", &script(&place, variant));
    let process = tracker.spawn(job).expect("spawned");
    place.wait_for("up");
    (place, tracker, process)
}

fn check_gone(place: &Place) {
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    assert_eq!(place.alive(), [0_u32; 0]);
    stays("nothing is back", || place.alive().is_empty());
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
}

#[test]
fn it_does_not_outlive_its_hosts_terminate() {
    need!("cc");
    at_once(VARIANTS, |variant| {
        let (place, tracker, mut process) = started(variant);
        process.terminate().expect("ended");
        check_gone(&place);
        tracker.shutdown().expect("an orderly end");
    });
}

#[test]
fn it_does_not_outlive_another_instances_kill() {
    need!("cc");
    at_once(VARIANTS, |variant| {
        let (place, tracker, mut process) = started(variant);
        let killed = place.procledger(&["kill", "task"]);
        assert!(killed.status.success(), "{killed:?}");
        process.wait().expect("waited");
        check_gone(&place);
        tracker.shutdown().expect("an orderly end");
    });
}

#[test]
fn it_does_not_outlive_a_host_that_stops_or_is_killed() {
    need!("cc");
    at_once(
        VARIANTS.into_iter().flat_map(|it| [(it, false), (it, true)]),
        |(variant, is_killed)| {
            let place = Place::new();
            let mut host = Host::start(&place, HOST);
            let root = host.spawn("task", &script(&place, variant));
            place.wait_for("up");
            if is_killed {
                host.crash();
                until("the keeper is gone", || keepers(&place.ledger()).is_empty());
                assert_eq!(
                    place.alive(),
                    [0_u32; 0],
                    "the keeper exits when the whole tree is gone"
                );
                Host::start(&place, HOST).stop();
            } else {
                host.stop();
            }
            assert!(root.is_dead());
            check_gone(&place);
        },
    );
}

#[test]
fn it_does_not_outlive_a_limit() {
    need!("cc");
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let job = place.job("task", &script(&place, (20, 500))).max_runtime(Duration::from_secs(1));
    tracker.spawn(job).expect("spawned");
    until("it is ended", || {
        place.sqlite3("SELECT end_reason FROM process WHERE root IS NULL") == "max_runtime"
    });
    check_gone(&place);
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn it_does_not_outlive_a_root_that_ends_by_itself() {
    need!("cc");
    at_once(VARIANTS, |variant| {
        let place = Place::new();
        let tracker = kept(&place).open().expect("a ledger");
        let left = script(&place, variant).replace("exec env", "setsid env");
        let script = format!("{left} & while [ ! -e up ]; do sleep 0.05; done; exit 5");
        let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
        assert_eq!(process.wait().expect("waited").code(), Some(5));
        until("its row has ended", || {
            place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'") == "0"
        });
        check_gone(&place);
        assert_ne!(place.sqlite3("SELECT count(*) FROM leaks WHERE kind = 'stray'"), "0");
        tracker.shutdown().expect("an orderly end");
    });
}
