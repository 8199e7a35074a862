//! How `procledger run` exits and what it prints if its program was ended, and what it passes to
//! the program.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cli::command::{Answer, Running, answer, bytes_of, procledger, run},
    support::{Place, until, write_program},
};

/// Obeys SIGTERM and reports success.
const SUCCEEDS: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
const STUBBORN: &str = "trap '' TERM INT; echo up; while :; do sleep 0.1; done";

/// Without what a shell prints about a child that SIGTERM has ended.
fn said(answer: &Answer) -> Vec<&str> {
    answer.err.lines().filter(|line| !line.ends_with("Terminated")).collect()
}

#[test]
fn an_exceeded_time_limit_exits_with_124_and_prints_one_line() {
    let place = Place::new();
    let by_itself = "trap 'exit 3' TERM; while :; do sleep 0.01; done";
    for script in [SUCCEEDS, by_itself, "exec sleep 300"] {
        let args = ["run", "--task", "t", "--max-runtime", "200ms", "--", "sh", "-c", script];
        let answer = run(&place, &args).expect(124);
        let line = said(&answer);
        assert_eq!(line.len(), 1, "{answer:?}");
        assert!(line[0].starts_with("procledger: task t was ended: ran for "), "{answer:?}");
        let quiet = [&args[..3], &["--quiet"], &args[3..]].concat();
        let answer = run(&place, &quiet).expect(124);
        assert!(said(&answer).is_empty(), "{answer:?}");
    }
}

#[test]
fn a_killed_program_that_exits_with_0_does_not_count_as_success() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], SUCCEEDS);
    run(&place, &["kill", "t"]).expect(0);
    let answer = running.finish().expect(128 + 15);
    let line = said(&answer);
    assert_eq!(line.len(), 1, "{answer:?}");
    assert!(line[0].starts_with("procledger: task t was ended: asked by uid "), "{answer:?}");
    assert!(line[0].ends_with(" (procledger kill)"), "{answer:?}");
    // Its own failure is kept.
    let fails = "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done";
    let running = Running::start(&place, "t", &["-q"], fails);
    run(&place, &["kill", "t"]).expect(0);
    let answer = running.finish().expect(9);
    assert!(said(&answer).is_empty(), "{answer:?}");
}

#[test]
fn an_exceeded_memory_limit_does_not_count_as_success() {
    let place = Place::new();
    let running = Running::start(&place, "t", &["--max-rss", "1k"], SUCCEEDS);
    let answer = running.finish().expect(128 + 15);
    assert!(answer.err.contains("more than its limit of 1024"), "{answer:?}");
}

/// The program itself decides how to react to a signal, whether `run` forwarded it or not.
#[test]
fn nothing_is_printed_about_a_program_that_ends_by_itself() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], SUCCEEDS);
    running.signal(Signal::TERM);
    let answer = running.finish().expect(0);
    assert!(said(&answer).is_empty(), "{answer:?}");
    let answer = run(&place, &["run", "-v", "--task", "t", "--", "sh", "-c", "exit 3"]).expect(3);
    assert!(answer.err.contains("procledger: task t exited with code 3 after "), "{answer:?}");
    let answer = run(&place, &["run", "-v", "--task", "t", "--", "sh", "-c", "kill -9 $$"]);
    let answer = answer.expect(128 + 9);
    assert!(answer.err.contains("procledger: task t was ended by signal 9 after "), "{answer:?}");
}

#[test]
fn a_second_signal_ends_the_tree_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let place = Place::new();
        let script =
            format!("sh -c '{}' child > /dev/null & {STUBBORN}", STUBBORN.replace('\'', ""));
        let script = script.replace("trap  TERM", "trap : TERM");
        let running = Running::start(&place, "t", &[], &script);
        running.signal(first);
        // Two of the same signal that arrive at once are one.
        std::thread::sleep(Duration::from_millis(300));
        assert!(!place.alive().is_empty());
        let began = Instant::now();
        running.signal(second);
        let answer = running.finish().expect(128 + 9);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert!(answer.err.contains("after a second signal"), "{answer:?}");
        assert_eq!(place.alive(), [0_u32; 0]);
    }
}

#[test]
fn a_requested_grace_counts_from_the_first_signal() {
    let place = Place::new();
    let running = Running::start(&place, "t", &["--grace", "400ms"], STUBBORN);
    let began = Instant::now();
    running.signal(Signal::TERM);
    let answer = running.finish().expect(128 + 9);
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(answer.err.contains("after a signal and its grace"), "{answer:?}");
    // Without one the program decides, as it does without `run`.
    let running = Running::start(&place, "t", &[], STUBBORN);
    running.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(700));
    assert!(!place.alive().is_empty());
    run(&place, &["kill", "t", "--now"]).expect(0);
    running.finish().expect(128 + 9);
}

#[test]
fn a_task_without_a_name_gets_a_readable_name() {
    let place = Place::new();
    let script = "echo \"$PROCLEDGER_TASK\"";
    let first = run(&place, &["run", "--", "sh", "-c", script]).expect(0).out;
    let second = run(&place, &["run", "--", "/bin/sh", "-c", script]).expect(0).out;
    assert_ne!(first, second);
    for name in [&first, &second] {
        let digits = name.trim().strip_prefix("sh-").expect("the program's name");
        assert!(digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
    let ids = place.sqlite3("SELECT task_id FROM process WHERE root IS NULL ORDER BY id");
    assert_eq!(ids, format!("{first}{second}").trim());
}

#[test]
fn the_program_gets_its_task_and_ledger_as_variables() {
    let place = Place::new();
    let script = "echo \"$PROCLEDGER_TASK\"; \"$1\" --db \"$PROCLEDGER_LEDGER\" tree \"$PROCLEDGER_TASK\" > /dev/null; echo $?";
    let args = ["run", "--task", "a/b c", "--", "sh", "-c", script, place.marker()];
    let mut command = procledger(&place);
    // A relative path of the ledger would lead elsewhere from the program's directory.
    command.env("PROCLEDGER_DB", "ledger.db").current_dir(place.path());
    let answer = answer(command.args(args).arg(crate::cli::command::PROCLEDGER)).expect(0);
    assert_eq!(answer.out, "a/b c\n0\n", "{answer:?}");
}

#[test]
fn options_for_variables_and_directory_apply_only_to_the_program() {
    let place = Place::new();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    write_program(&folder.join("prog"), "#!/bin/sh\npwd; echo \"$A-$B-$PATH\"\n");
    let args = ["run", "--env", "A=1=2", "--env", "B=", "--cwd", "folder", "--", "./prog"];
    let mut command = procledger(&place);
    let answer = answer(command.args(args).current_dir(place.path()).env("B", "set")).expect(0);
    let path = std::env::var("PATH").expect("a path");
    let folder = folder.canonicalize().expect("a folder");
    assert_eq!(answer.out, format!("{}\n1=2--{path}\n", folder.display()));
    // Refused before anything is recorded.
    until("the ledger is closed", || place.sqlite3("SELECT count(*) FROM running") == "0");
    let before = bytes_of(place.path());
    for (option, value, part) in [
        ("--env", "A", "write NAME=VALUE"),
        ("--env", "=1", "write NAME=VALUE"),
        ("--cwd", "/no/such/folder", "--cwd /no/such/folder: No such file"),
        ("--cwd", "/dev/null", "--cwd /dev/null: not a directory"),
    ] {
        let answer = run(&place, &["run", option, value, "--", "true"]).expect(2);
        assert!(answer.complaint().contains(part), "{answer:?}");
        assert!(before == bytes_of(place.path()), "{option} {value}");
    }
}
