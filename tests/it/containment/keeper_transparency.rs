//! A program under a keeper behaves as it does without one: what it receives, what it prints, and
//! how it ends.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    thread,
    time::Duration,
};

use procledger::{Containment, ExitStatus, Job, Stdio};

use crate::{
    containment::keepers::{keepers, kept},
    handle::stopped_group::stop_and_continue,
    spawn::gate_host::{Given, children, command, descriptors, in_another_process_under_keeper},
    support::{Place, parent, stat_field, until},
};

/// These bodies are shared with the gate's tests: the requirements on a program and its host are
/// the same.
#[test]
fn the_gate_keeps_its_guarantees_when_a_keeper_relays_it() {
    for role in ["clean-program", "closed", "crosswise", "not-started", "thread-ends"] {
        let place = Place::new();
        in_another_process_under_keeper(&place, role, Duration::from_mins(2));
        assert_eq!(place.alive(), [0_u32; 0], "{role}");
    }
}

#[test]
fn stopping_and_continuing_a_group_hangs_no_spawn_under_a_keeper() {
    let place = Place::new();
    let mut host = command(&place, "stopped-group");
    host.env("PROCLEDGER_CONTAINMENT", "keeper");
    stop_and_continue(&place, host);
}

#[test]
fn exit_codes_and_signals_reach_the_waiter_and_the_ledger() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    // 34 is a real-time signal, which has no name in libraries.
    let ends = [
        ("exit 0", ExitStatus::Exited(0)),
        ("exit 255", ExitStatus::Exited(255)),
        ("kill -9 $$", ExitStatus::Signaled(9)),
        ("kill -15 $$", ExitStatus::Signaled(15)),
        ("ulimit -c 0; kill -11 $$", ExitStatus::Signaled(11)),
        ("kill -34 $$", ExitStatus::Signaled(34)),
    ];
    for (number, (script, expected)) in ends.iter().enumerate() {
        let mut process =
            tracker.spawn(place.job(&format!("task-{number}"), script)).expect("spawned");
        assert_eq!(process.wait().expect("waited"), *expected, "{script}");
    }
    assert_eq!(
        place.sqlite3(
            "SELECT exit_code, exit_signal FROM process WHERE containment = 'keeper' ORDER BY id"
        ),
        "0|\n255|\n|9\n|15\n|11\n|34"
    );
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn all_output_is_passed_on_and_a_pipe_closes_with_its_program() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let job = Job::new("cat", "sh")
        .args(["-c", "cat; echo done >&2", place.marker()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = tracker.spawn(job).expect("spawned");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let (mut stdin, mut stdout) =
        (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
    let writer = thread::spawn({
        let sent = sent.clone();
        move || stdin.write_all(&sent).expect("read")
    });
    let mut received = Vec::new();
    // Read to its end: no other process, in particular not the keeper, holds the pipe open.
    stdout.read_to_end(&mut received).expect("a pipe");
    writer.join().expect("written");
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    let output = process.wait_with_output().expect("waited");
    assert_eq!((output.exit.status, output.stderr), (ExitStatus::Exited(0), b"done\n".to_vec()));
}

#[test]
fn the_row_describes_the_program_and_the_keeper_is_isolated_from_it() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let row = tracker.ledger().roots().expect("rows").remove(0);
    assert_eq!((row.pid(), row.spec.session), (process.pid(), Some(process.pid())));
    assert_eq!(row.spec.containment, Containment::Keeper);
    let keeper = parent(process.pid().get()).expect("a parent");
    assert_eq!(keepers(&place.ledger()), [keeper]);
    assert_eq!(parent(keeper), Some(std::process::id()), "a child of its host");
    assert_eq!(stat_field(keeper, 6), Some(keeper.to_string()), "a session of its own");
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).expect("a keeper");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
    let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a mask");
    // All but SIGKILL and SIGSTOP.
    assert_eq!(!blocked, 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1), "{blocked:x}");
    until("it has let go of the folder", || {
        fs::read_link(format!("/proc/{keeper}/cwd")).is_ok_and(|folder| folder == *"/")
    });
    assert_eq!(fs::read(format!("/proc/{keeper}/environ")).expect("readable"), b"", "no token");
    for standard in 0..3 {
        let target = fs::read_link(format!("/proc/{keeper}/fd/{standard}")).expect("open");
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    let open = fs::read_dir(format!("/proc/{keeper}/fd")).expect("descriptors");
    let open: BTreeSet<String> = open
        .filter_map(|entry| fs::read_link(entry.expect("one").path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    assert!(
        open.iter().all(|target| !target.contains("pipe:") && !target.contains("ledger")),
        "{open:?}"
    );
    tracker.shutdown().expect("an orderly end");
    assert_eq!(keepers(&place.ledger()), [0_u32; 0]);
}

const AT_ONCE: u32 = 100;

#[test]
fn a_hundred_programs_at_once_leave_no_zombie_and_no_descriptor() {
    let place = Place::new();
    in_another_process_under_keeper(&place, "kept-many", Duration::from_mins(2));
    assert_eq!(
        place.sqlite3(
            "SELECT count(*), count(DISTINCT exit_code) FROM process WHERE task_id <> 'first'"
        ),
        "100|100"
    );
    assert_eq!(keepers(&place.ledger()), [0_u32; 0]);
}

pub(crate) fn many(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let run = |task: String, code: u32| {
        let job = Job::new(task, "sh")
            .args(["-c", &format!("exit {code}"), &given.marker])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        tracker.spawn(job).and_then(|mut process| process.wait()).expect("run")
    };
    run("first".into(), 0);
    // The monitor and SQLite have opened everything that they ever open.
    let before = descriptors();
    thread::scope(|scope| {
        let run = &run;
        for number in 0..AT_ONCE {
            scope.spawn(move || {
                let status = run(format!("task-{number}"), number);
                assert_eq!(status, ExitStatus::Exited(number.cast_signed()));
            });
        }
    });
    until("every keeper is gone, and no zombie stays", || children().is_empty());
    until("nothing stays open", || descriptors().len() <= before.len());
    tracker.shutdown().expect("an orderly end");
}
