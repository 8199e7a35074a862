//! A keeper is killed: alone, or together with its host.

use std::time::Duration;

use procledger::ExitStatus;

use crate::{
    containment::keepers::{HOST, KEEPER, daemon, keepers, kept},
    spawn::gate_host::{WriteLock, in_another_process},
    support::{Host, PidfdWatch, Place, children, eventually, until},
};

#[test]
fn the_program_continues_and_its_end_and_strays_are_recorded() {
    let place = Place::new();
    let log = place.path().join("log");
    let mut host = Host::start(&place, &format!("{HOST} log={}", log.display()));
    let script = format!(
        "cd {}; setsid sleep 3600 >/dev/null 2>&1 & echo $! > daemon; while [ ! -e go ]; do sleep 0.05; done; exit 7",
        place.path().display()
    );
    let root = host.spawn("task", &script);
    let daemon = place.watch("daemon");
    let keeper = keepers(&place.ledger())[0];
    PidfdWatch::on(keeper).kill();
    let said = "the keeper of process";
    eventually("the host says so", || {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains(said))
    });
    until("its zombie is taken away", || crate::support::state(keeper).is_none());
    assert!(!root.is_dead());
    assert_eq!(host.ask("running"), "1");
    std::fs::write(place.path().join("go"), "").expect("the sign");
    let status = host.ask("wait task");
    // Since Linux 6.15 the kernel reports the code, once its new parent has reaped it.
    assert!(["exit code 7", "unobserved"].iter().any(|end| status.contains(end)), "{status}");
    until("its stray is ended", || daemon.is_dead());
    eventually("and recorded", || {
        (place.sqlite3("SELECT kind FROM leaks") == "stray").then_some(())
    });
    host.stop();
}

/// The program has the keeper's uid, and SIGSTOP cannot be blocked. The host, as the keeper's
/// parent, has to continue it.
#[test]
fn a_host_waited_forever_for_a_keeper_that_its_program_had_stopped() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let mut process =
        tracker.spawn(place.job("exits", "kill -STOP $PPID; exit 7")).expect("spawned");
    assert_eq!(process.wait().expect("its status"), ExitStatus::Exited(7));

    let script =
        format!("{}; kill -STOP $PPID; echo > stopped; exec sleep 3600", daemon(&place, "away"));
    tracker.spawn(place.job("ended", &script)).expect("spawned");
    place.wait_for("stopped");
    let away = place.watch("away");
    tracker.terminate("ended").expect("ended");
    assert!(away.is_dead());
    tracker.shutdown().expect("an orderly end");
    until("no keeper is left", || keepers(&place.ledger()).is_empty());
    let codes = "SELECT exit_code FROM process WHERE task_id = 'exits'";
    assert_eq!(place.sqlite3(codes), "7");
}

#[test]
fn if_its_host_is_killed_too_rows_and_the_token_identify_every_member() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{HOST} interval=3600000"));
    let folder = place.path().display();
    let script = format!(
        "{}; setsid sleep 3600 & echo $! > {folder}/leader; exec sleep 3600",
        daemon(&place, "daemon.pid")
    );
    let root = host.spawn("task", &script);
    let all_watched = ["daemon.pid", "leader"].map(|name| place.watch(name));
    // The pass that has seen the daemon while it was still a descendant of the keeper.
    host.ask("health");
    let keeper = PidfdWatch::on(keepers(&place.ledger())[0]);
    // Stopped, it cannot act between the two kills.
    let fd = crate::support::pidfd(keeper.pid()).expect("alive");
    rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::STOP).expect("stopped");
    host.crash();
    keeper.kill();
    assert!(
        !root.is_dead() && all_watched.iter().all(|watched| !watched.is_dead()),
        "no process is left to end them"
    );
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(root.is_dead() && all_watched.iter().all(PidfdWatch::is_dead));
    assert_eq!(place.sqlite3("SELECT count(*) FROM leaks WHERE kind = 'orphan'"), "3");
}

#[test]
fn if_it_is_killed_at_the_gate_the_program_never_runs() {
    // In a process of its own, whose only keeper is this one's: tests that run beside it have
    // keepers too.
    in_another_process(&Place::new(), "keeper-killed-at-the-gate", Duration::from_mins(1));
}

pub(crate) fn at_the_gate() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let lock = WriteLock::take(&place.ledger(), place.marker());
    let spawning = {
        let (tracker, job) = (tracker.clone(), place.job("task", "echo ran > ran"));
        std::thread::spawn(move || tracker.spawn(job).map(|process| process.pid()))
    };
    let keeper = eventually("the child is at the gate", || {
        let runs_keeper = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == *KEEPER)
        };
        let keepers = children(std::process::id()).into_iter().filter(runs_keeper);
        // Its own child is the keeper's program until the gate opens.
        keepers.into_iter().find(|&keeper| children(keeper).iter().any(runs_keeper))
    });
    PidfdWatch::on(keeper).kill();
    lock.release();
    let error = spawning.join().expect("joined").expect_err("its keeper is dead");
    assert!(error.is_not_started(), "{error:?}");
    assert!(!place.path().join("ran").exists());
    assert_eq!(
        tracker.spawn(place.job("next", "exit 3")).and_then(|mut next| next.wait()).expect("run"),
        ExitStatus::Exited(3)
    );
    tracker.shutdown().expect("an orderly end");
}
