//! The host of a program under a keeper is killed: the tree is ended at once, without a reap of the
//! ledger.

use std::{fs, time::Instant};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    containment::keepers::{HOST, daemon, keepers},
    support::{Host, PidfdWatch, Place, pidfd, stays, until},
};

#[test]
fn a_daemon_that_left_session_environment_and_folder_dies_with_the_host() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let folder = place.path().display();
    let script = format!(
        "{}; sleep 3600 & echo $! > {folder}/child; setsid sleep 3600 & echo $! > {folder}/leader; exec sleep 3600",
        daemon(&place, "daemon.pid")
    );
    let root = host.spawn("task", &script);
    let all_watched = ["daemon.pid", "child", "leader"].map(|name| place.watch(name));
    let killed = Instant::now();
    host.crash();
    until("the tree is dead", || root.is_dead() && all_watched.iter().all(PidfdWatch::is_dead));
    eprintln!("dead {:?} after its host was killed", killed.elapsed());
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    assert_eq!(place.alive(), [0_u32; 0]);
    assert_eq!(
        place.sqlite3("SELECT state, containment FROM process WHERE root IS NULL"),
        "running|keeper"
    );

    let next = Host::start(&place, HOST);
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    next.stop();
}

#[test]
fn a_daemon_left_by_a_root_just_before_the_host_died_is_ended() {
    let place = Place::new();
    // Without a monitor the root's end is not noticed: its host dies first.
    let mut host = Host::start(&place, &format!("{HOST} no-monitor"));
    let root = host.spawn(
        "task",
        &format!(
            "{}; while [ ! -e {}/go ]; do sleep 0.05; done",
            daemon(&place, "daemon.pid"),
            place.path().display()
        ),
    );
    let daemon = place.watch("daemon.pid");
    fs::write(place.path().join("go"), "").expect("the sign");
    until("the root has ended", || root.is_dead());
    host.crash();
    until("the daemon is dead", || daemon.is_dead());
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
}

#[test]
fn each_process_gets_sigterm_and_its_grace_first_even_if_stopped() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{HOST} grace=5000"));
    let folder = place.path().display();
    let script = format!(
        "trap 'echo asked > {folder}/asked; exit 0' TERM; echo up > {folder}/up; \
         while :; do sleep 0.01; done"
    );
    let obedient = host.spawn("obedient", &script);
    let stopped =
        host.spawn("stopped", &format!("echo up > {folder}/going; kill -STOP $$; sleep 3600"));
    place.wait_for("up");
    place.wait_for("going");
    until("it is stopped", || crate::support::state(stopped.pid()) == Some('T'));
    let killed = Instant::now();
    host.crash();
    until("both are dead", || obedient.is_dead() && stopped.is_dead());
    assert!(killed.elapsed().as_secs() < 5, "no process had to be killed");
    assert_eq!(fs::read_to_string(place.path().join("asked")).expect("asked"), "asked\n");
}

#[test]
fn a_fork_storm_that_ignores_sigterm_is_ended_completely() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let folder = place.path().display();
    // Each keeps forking, half of them into sessions of their own; a bound keeps a failure from
    // exhausting the machine.
    let storm = place.script(
        "storm",
        "trap '' TERM; n=0; while [ $n -lt 150 ]; do n=$((n+1)); \
         setsid sh -c 'trap \"\" TERM; sleep 60 & sleep 61' \"$1\" & sleep 0.02; done; wait",
    );
    let script = format!(
        "for i in 1 2 3; do {} {} & done; echo up > {folder}/up; wait",
        storm.display(),
        place.marker()
    );
    let root = host.spawn("storm", &script);
    place.wait_for("up");
    until("it storms", || place.alive().len() > 40);
    host.crash();
    until("all are dead", || root.is_dead() && place.alive().is_empty());
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    stays("no process is back", || place.alive().is_empty());
}

#[test]
fn a_keeper_receives_only_the_two_signals_that_cannot_be_blocked() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let root = host.spawn("task", "exec sleep 3600");
    let keeper = keepers(&place.ledger())[0];
    let fd = pidfd(keeper).expect("alive");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::PIPE]
    {
        pidfd_send_signal(&fd, signal).expect("sent");
    }
    stays("it keeps on", || keepers(&place.ledger()) == [keeper]);
    assert_eq!(host.ask("running"), "1");
    host.crash();
    until("it has done its work", || root.is_dead() && keepers(&place.ledger()).is_empty());
}
