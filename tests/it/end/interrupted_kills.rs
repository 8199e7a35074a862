//! A `kill` that does not finish: killed, stopped or interrupted within the grace period. Its claim
//! prevents no other instance from acting on the task, and the owner's exit status reaches the
//! history.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{PROCLEDGER, Running, finish, procledger, run},
    containment::task_cgroups::can_use_cgroups,
    support::{Host, Place, at_once, is_alive, namespaced, namespaces, pidfd, root, state, until},
};

/// Far below a health interval (30 s) and the grace periods of these tests; far above the duration
/// of an end on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A program that records SIGTERM in the file `asked` and continues until there is a file `go`;
/// then its exit code is 5.
fn stubborn(place: &Place) -> String {
    let folder = place.path().display();
    format!(
        "trap 'echo > {folder}/asked' TERM; echo ready; while [ ! -e {folder}/go ]; do sleep 0.05; done; exit 5"
    )
}

fn let_go(place: &Place) {
    fs::write(place.path().join("go"), "").expect("a file");
}

/// What keeps trees together here.
fn containments() -> Vec<&'static str> {
    let mut all = vec!["session", "keeper"];
    all.extend(can_use_cgroups().then_some("cgroup"));
    all
}

/// A `run` that owns the stubborn program.
fn owner(place: &Place, containment: &str, grace: &str) -> Running {
    let options = ["--grace", grace, "--containment", containment];
    Running::start(place, "task", &options, &stubborn(place))
}

/// A `kill` that waits in its grace period.
fn kill_in_its_grace(place: &Place) -> Child {
    let asked = place.path().join("asked");
    let _ = fs::remove_file(&asked);
    let child = procledger(place).args(["kill", "task"]).spawn().expect("a command");
    until("the program has got its stop signal", || asked.exists());
    child
}

fn signal(child: &Child, signal: Signal) {
    let fd = pidfd(child.id()).expect("a child");
    pidfd_send_signal(&fd, signal).expect("a signal");
}

fn crash(mut child: Child) {
    signal(&child, Signal::KILL);
    child.wait().expect("reaped");
}

fn row(place: &Place) -> String {
    let row = "SELECT state, end_reason, exit_code, exit_signal, asked_by IS NOT NULL, claimed_by IS NOT NULL
         FROM process WHERE task_id = 'task' AND root IS NULL";
    place.sqlite3(row)
}

fn is_running(place: &Place) -> bool {
    row(place).starts_with("running|")
}

#[test]
fn the_exit_code_is_kept_when_several_kills_die_in_their_grace() {
    at_once(containments(), |containment| {
        for kills in [1, 3] {
            let place = Place::new();
            let owner = owner(&place, containment, "60s");
            for _ in 0..kills {
                crash(kill_in_its_grace(&place));
            }
            assert_eq!(row(&place), "ending||||1|1", "{containment}");
            let began = Instant::now();
            let_go(&place);
            owner.finish().expect(5);
            assert!(began.elapsed() < SOON, "{containment}: {:?}", began.elapsed());
            assert_eq!(row(&place), "ended|killed|5||1|0", "{containment}");
            assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0", "{containment}");
            assert!(place.alive().is_empty(), "{containment}");
        }
    });
}

#[test]
fn every_command_takes_over_the_claim_of_a_dead_kill_at_once() {
    at_once(["kill", "terminate", "reap", "unregister", "forget"], |verb| {
        let place = Place::new();
        let mut host = Host::start(&place, "containment=session grace=60000");
        let program = host.spawn("task", &stubborn(&place));
        let asked = place.path().join("asked");
        until("its trap is set", || {
            // Earlier, the request would have no effect.
            fs::read_to_string(format!("/proc/{}/status", program.pid()))
                .is_ok_and(|status| caught(&status) & (1 << 14) != 0)
        });
        crash(kill_in_its_grace(&place));
        fs::remove_file(&asked).expect("it was asked");
        let began = Instant::now();
        match verb {
            "kill" => {
                let again = kill_in_its_grace(&place);
                let_go(&place);
                finish(again).expect(0);
                until("it is recorded", || row(&place) == "ended|killed|5||1|0");
            }
            "terminate" => {
                host.send("terminate task");
                until("it is asked again", || asked.exists());
                let_go(&place);
                assert_ne!(host.answer(), "0");
                until("it is recorded", || row(&place) == "ended|terminated|5||1|0");
            }
            "reap" => {
                run(&place, &["reap"]).expect(0);
                assert!(is_running(&place) && !program.is_dead(), "{}", row(&place));
                let_go(&place);
                assert_eq!(host.ask("wait task"), "exit code 5");
                until("it is recorded", || row(&place) == "ended|exited|5||1|0");
            }
            "unregister" => {
                assert_eq!(host.ask("unregister task"), "true");
                assert_eq!(row(&place), "ended|released|||1|0");
                let_go(&place);
            }
            _ => {
                let refused = run(&place, &["forget", "task"]).expect(1);
                assert!(refused.err.contains("end it with `procledger kill`"), "{refused:?}");
                let again = kill_in_its_grace(&place);
                let_go(&place);
                finish(again).expect(0);
            }
        }
        assert!(began.elapsed() < SOON, "{verb}: {:?}", began.elapsed());
        until("it ends", || program.is_dead());
        host.stop();
    });
}

/// The mask in `SigCgt:` of `proc_pid_status(5)`.
fn caught(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[test]
fn a_second_kill_shortens_the_grace_of_a_live_one() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let owner = owner(&place, containment, "60s");
        let first = kill_in_its_grace(&place);
        // A stopped one, as after Ctrl-Z, does not block the task either.
        signal(&first, Signal::STOP);
        let began = Instant::now();
        run(&place, &["kill", "task"]).expect(0);
        assert!(began.elapsed() < SOON, "{containment}: {:?}", began.elapsed());
        owner.finish().expect(128 + 9);
        assert_eq!(row(&place), "ended|killed||9|1|0", "{containment}");
        signal(&first, Signal::CONT);
        finish(first).expect(0);
        assert_eq!(row(&place), "ended|killed||9|1|0", "the first one records nothing more");
        assert!(place.alive().is_empty(), "{containment}");
    });
}

/// Its owner was not scheduled in between, and records the status while the kill holds the claim.
#[test]
fn a_program_that_exited_before_a_kill_could_signal_it_was_killed() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let folder = place.path().display();
        let script = format!("echo $$; while [ ! -e {folder}/go ]; do sleep 0.05; done; exit 5");
        let options = ["--grace", "60s", "--containment", containment];
        let owner = Running::start(&place, "task", &options, &script);
        let program: u32 = owner.said.parse().expect("a pid");
        owner.signal(Signal::STOP);
        until("the owner is stopped", || state(owner.child.id()) == Some('T'));
        let_go(&place);
        until("the program has exited", || !is_alive(program));
        let kill = procledger(&place).args(["kill", "task"]).spawn().expect("a command");
        until("it holds the claim", || !is_running(&place));
        owner.signal(Signal::CONT);
        finish(kill).expect(0);
        owner.finish().expect(5);
        assert_eq!(row(&place), "ended|exited|5||1|0", "{containment}");
    });
}

/// Its owner records the status while the first kill, which is stopped, holds the claim; the second
/// one finds it gone.
#[test]
fn a_process_that_a_kill_found_gone_was_recorded_without_a_rule() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let owner = owner(&place, containment, "60s");
        let first = kill_in_its_grace(&place);
        signal(&first, Signal::STOP);
        let_go(&place);
        until("its owner has recorded the status", || row(&place) == "ending||5||1|1");
        run(&place, &["kill", "task"]).expect(0);
        owner.finish().expect(5);
        assert_eq!(row(&place), "ended|killed|5||1|0", "{containment}");
        let why =
            "SELECT end_rule GLOB 'asked by uid *', end_evidence, end_rule_key, end_evidence_key
             FROM process WHERE task_id = 'task' AND root IS NULL";
        assert_eq!(place.sqlite3(why), "1|identity|person_asked|identity", "{containment}");
        crash(first);
    });
}

/// Its owner was stopped until the second kill had found it gone.
#[test]
fn a_killed_program_whose_status_was_recorded_late_had_exited_by_itself() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let owner = owner(&place, containment, "60s");
        let program = place.sqlite3("SELECT pid FROM process WHERE root IS NULL");
        let program: u32 = program.parse().expect("a pid");
        let first = kill_in_its_grace(&place);
        signal(&first, Signal::STOP);
        owner.signal(Signal::STOP);
        until("the owner is stopped", || state(owner.child.id()) == Some('T'));
        let_go(&place);
        until("the program has exited", || !is_alive(program));
        run(&place, &["kill", "task"]).expect(0);
        owner.signal(Signal::CONT);
        owner.finish().expect(5);
        assert_eq!(row(&place), "ended|killed|5||1|0", "{containment}");
        let why = "SELECT end_rule_key, end_evidence_key FROM process WHERE root IS NULL";
        assert_eq!(place.sqlite3(why), "person_asked|identity", "{containment}");
        crash(first);
    });
}

#[test]
fn a_kill_shortens_the_grace_of_the_owner_and_the_owner_records_the_status() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session grace=60000");
    let program = host.spawn("task", &stubborn(&place));
    std::thread::sleep(Duration::from_millis(300));
    host.send("terminate task");
    until("it is asked", || place.path().join("asked").exists());
    let began = Instant::now();
    run(&place, &["kill", "task"]).expect(0);
    assert!(program.is_dead() && began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_ne!(host.answer(), "0", "its own call returns too");
    until("the status is there", || row(&place) == "ended|killed||9|1|0");
    host.stop();
}

#[test]
fn an_interrupted_kill_releases_the_task_and_dies_by_the_signal() {
    at_once([(2, Signal::INT), (15, Signal::TERM), (1, Signal::HUP)], |(number, interrupt)| {
        let place = Place::new();
        let mut host = Host::start(&place, "containment=session grace=60000");
        let program = host.spawn("task", &stubborn(&place));
        std::thread::sleep(Duration::from_millis(300));
        let kill = kill_in_its_grace(&place);
        let began = Instant::now();
        signal(&kill, interrupt);
        let answer = finish(kill);
        assert_eq!(answer.status.signal(), Some(number), "{answer:?}");
        assert!(answer.err.contains("interrupted: "), "{answer:?}");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        assert_eq!(row(&place), "running||||1|0");
        // Its owner does not end it later either because of what the interrupted kill had begun.
        host.ask("health");
        assert!(!program.is_dead() && is_running(&place));
        let_go(&place);
        assert_eq!(host.ask("wait task"), "exit code 5");
        until("it is recorded", || row(&place) == "ended|exited|5||1|0");
        host.stop();
    });
}

#[test]
fn a_run_whose_program_ends_during_a_hanging_kill_returns_its_exit_code() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let owner = owner(&place, containment, "1s");
        let kill = kill_in_its_grace(&place);
        signal(&kill, Signal::STOP);
        let began = Instant::now();
        let_go(&place);
        owner.finish().expect(5);
        assert!(began.elapsed() < SOON * 2, "{containment}: {:?}", began.elapsed());
        assert_eq!(row(&place), "ended|killed|5||1|0", "{containment}");
        signal(&kill, Signal::CONT);
        finish(kill).expect(0);
        assert_eq!(row(&place), "ended|killed|5||1|0", "{containment}");
    });
}

#[test]
fn a_stopping_owner_ends_the_task_that_a_hanging_kill_has_claimed() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session grace=1000");
    let program = host.spawn("task", &stubborn(&place));
    std::thread::sleep(Duration::from_millis(300));
    let kill = kill_in_its_grace(&place);
    signal(&kill, Signal::STOP);
    host.stop();
    assert!(program.is_dead(), "it has not outlived its owner");
    assert_eq!(row(&place), "ended|shutdown||9|1|0");
    signal(&kill, Signal::CONT);
    finish(kill).expect(0);
}

#[test]
fn processes_left_by_a_dead_owner_and_a_dead_kill_are_ended_by_the_next_opener() {
    let place = Place::new();
    let owner = owner(&place, "session", "1s");
    crash(kill_in_its_grace(&place));
    owner.crash();
    run(&place, &["reap"]).expect(0);
    assert!(place.alive().is_empty());
    assert_eq!(row(&place), "ended|orphan|||1|0");
}

/// Its identity proves nothing here, but it has recorded its stop, or its lock exists and is free.
#[test]
fn the_claim_of_an_instance_that_ended_in_another_pid_namespace_is_void() {
    if !root() || !namespaces() {
        return;
    }
    for stopped in [true, false] {
        let place = Place::new();
        let mut host = Host::start(&place, "containment=session");
        let program = host.spawn("task", "exec sleep 3600");
        let mut elsewhere = namespaced(PROCLEDGER);
        elsewhere.arg("--db").arg(place.ledger()).args(["kill", "no-such-task"]);
        assert_eq!(elsewhere.output().expect("unshare").status.code(), Some(1));
        let ledger = rusqlite::Connection::open(place.ledger()).expect("opens");
        ledger
            .execute_batch(
                "UPDATE process SET state = 'ending', claimed_by = (SELECT max(id) FROM instance)",
            )
            .expect("claimed");
        if !stopped {
            let clear = "UPDATE instance SET stopped_at = NULL, stopped_how = NULL WHERE id = (SELECT max(id) FROM instance)";
            ledger.execute_batch(clear).expect("it crashed");
            let lock: String = ledger
                .query_one("SELECT lock_name FROM instance ORDER BY id DESC LIMIT 1", [], |row| {
                    row.get(0)
                })
                .expect("a lock");
            fs::write(place.path().join(lock), "").expect("a file");
        }
        drop(ledger);
        host.ask("health");
        assert!(is_running(&place), "{}", row(&place));
        assert_eq!(host.ask("terminate task"), "1");
        assert!(program.is_dead());
        host.stop();
    }
}
