//! `procledger kill`: patterns, grace, signal, order, and a task that runs the command itself.

use std::{fs, time::Instant};

use crate::{
    cli::command::{PROCLEDGER, Running, procledger, run},
    support::{PATIENCE, Place, is_alive},
};

const SLEEPER: &str = "echo $$; exec sleep 300";
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 0.1; done";

fn pid(running: &Running) -> u32 {
    running.said.parse().expect("a pid")
}

#[test]
fn a_pattern_ends_the_tasks_that_match_and_no_others() {
    let place = Place::new();
    let tasks = ["agent-7/web", "agent-7/db", "agent-70/web", "other"];
    let running = tasks.map(|task| Running::start(&place, task, &[], SLEEPER));
    let pids: Vec<u32> = running.iter().map(pid).collect();
    let alive = || pids.iter().map(|pid| is_alive(*pid)).collect::<Vec<_>>();
    let none = run(&place, &["kill", "agent-8/*"]).expect(1);
    assert!(none.complaint().contains("no running task matches agent-8/*"), "{none:?}");
    assert_eq!(alive(), [true; 4]);
    // One of the names is not there: the others are ended.
    let some = run(&place, &["kill", "agent-7/*", "missing"]).expect(1);
    assert!(some.err.contains("no task missing is running"), "{some:?}");
    assert_eq!(some.out.lines().count(), 2, "{some:?}");
    assert_eq!(alive(), [false, false, true, true]);
    // Overlapping patterns name a task once.
    let rest = run(&place, &["kill", "other", "ot*", "agent-7?/web"]).expect(0);
    assert_eq!(rest.out.lines().count(), 2, "{rest:?}");
    assert_eq!(alive(), [false; 4]);
    for running in running {
        running.finish().expect(128 + 15);
    }
}

#[test]
fn a_pattern_that_is_a_task_id_matches_only_that_task() {
    let place = Place::new();
    let star = Running::start(&place, "a*", &[], SLEEPER);
    let other = Running::start(&place, "ab", &[], SLEEPER);
    run(&place, &["kill", "a*"]).expect(0);
    star.finish().expect(128 + 15);
    assert!(is_alive(pid(&other)));
    run(&place, &["kill", "a*"]).expect(0);
    other.finish().expect(128 + 15);
}

#[test]
fn the_grace_option_overrides_the_grace_of_the_task() {
    let place = Place::new();
    let script = "trap 'sleep 0.4; echo tidy; exit 9' TERM; echo up; while :; do sleep 0.01; done";
    let slow = Running::start(&place, "slow", &["--grace", "1ms"], script);
    run(&place, &["kill", "slow", "--grace", "20s"]).expect(0);
    assert_eq!(slow.finish().expect(9).out, "tidy\n");
    for now in [&["--now"][..], &["--grace", "0s"]] {
        let stubborn = Running::start(&place, "stubborn", &["--grace", "300s"], STUBBORN);
        let began = Instant::now();
        let killed = run(&place, &[&["kill", "stubborn"], now].concat()).expect(0);
        assert!(killed.out.contains("ended by KILL"), "{killed:?}");
        assert!(began.elapsed() < PATIENCE);
        stubborn.finish().expect(128 + 9);
    }
}

#[test]
fn the_signal_option_replaces_sigterm() {
    let place = Place::new();
    for (option, name, word) in
        [("INT", "INT", "INT"), ("sighup", "HUP", "HUP"), ("10", "USR1", "USR1")]
    {
        let script = format!(
            "trap 'echo got {name}; exit 42' {name}; trap 'exit 1' TERM; echo up; while :; do sleep 0.01; done"
        );
        let running = Running::start(&place, "signalled", &["--grace", "20s"], &script);
        let killed = run(&place, &["kill", "signalled", "--signal", option]).expect(0);
        assert!(killed.out.contains(&format!("ended by {word}")), "{killed:?}");
        assert_eq!(running.finish().expect(42).out, format!("got {name}\n"));
    }
}

/// A program that flushes its output through a child needs the child until the program itself has
/// ended.
#[test]
fn root_first_signals_the_root_before_the_others() {
    for containment in ["session", "auto"] {
        let place = Place::new();
        let child = "trap 'echo child >> order; exit' TERM; while :; do sleep 0.01; done";
        let root = format!(
            "cd {}; sh -c \"{child}\" child & trap 'sleep 0.5; echo root >> order; exit 3' TERM; \
             sleep 0.3; echo up; while :; do sleep 0.01; done",
            place.path().display()
        );
        let order = place.path().join("order");
        for (options, expected) in
            [(&[][..], "child\nroot\n"), (&["--root-first"], "root\nchild\n")]
        {
            let options = [&["kill", "flush", "--grace", "20s"], options].concat();
            let mut command = procledger(&place);
            command.env("PROCLEDGER_CONTAINMENT", containment).args(["run", "--task", "flush"]);
            let running = Running::spawn(command.args(["--", "sh", "-c", &root, place.marker()]));
            run(&place, &options).expect(0);
            running.finish().expect(3);
            assert_eq!(fs::read_to_string(&order).expect("an order"), expected, "{containment}");
            fs::remove_file(&order).expect("removed");
        }
    }
}

#[test]
fn a_task_is_ended_by_its_own_stop_signals_unless_kill_overrides_them() {
    let place = Place::new();
    let script = "trap 'echo hup' HUP; trap 'echo term; exit 7' TERM; trap 'exit 8' USR1; echo up; \
                  while :; do sleep 0.01; done";
    let own = ["--stop-signal", "hup:100ms", "--stop-signal", "TERM:10m", "--root-first"];
    let running = Running::start(&place, "own", &own, script);
    let killed = run(&place, &["kill", "own"]).expect(0);
    assert!(killed.out.contains("ended by HUP or TERM"), "{killed:?}");
    assert_eq!(running.finish().expect(7).out, "hup\nterm\n");
    let running = Running::start(&place, "own", &own, script);
    let killed = run(&place, &["kill", "own", "--signal", "USR1"]).expect(0);
    assert!(killed.out.contains("ended by USR1"), "{killed:?}");
    running.finish().expect(8);
    // A signal without a time lasts for five seconds, or for the grace that the task is given.
    let running =
        Running::start(&place, "own", &["--stop-signal", "USR1", "--grace", "10m"], script);
    let row = "SELECT grace_ms, end_plan FROM process WHERE state = 'running'";
    let plan = r#"600000|{"stop_signals":[{"signal":10,"wait_ms":5000}]}"#;
    assert_eq!(place.sqlite3(row), plan);
    run(&place, &["kill", "own"]).expect(0);
    running.finish().expect(8);
}

/// A root that ignores the signal is given its grace; then the others are given theirs, and all are
/// ended.
#[test]
fn a_root_that_ignores_its_signal_delays_the_others_only_by_its_grace() {
    let place = Place::new();
    let child = "trap 'echo child > proof; exit' TERM; while :; do sleep 0.01; done";
    let root = format!(
        "cd {}; mkfifo fifo; sh -c \"{child}\" child & trap '' TERM; sleep 0.3; echo up; read -r line < fifo",
        place.path().display()
    );
    let running = Running::start(&place, "stubborn", &[], &root);
    run(&place, &["kill", "stubborn", "--root-first", "--grace", "500ms"]).expect(0);
    running.finish().expect(128 + 9);
    assert_eq!(fs::read_to_string(place.path().join("proof")).expect("it was asked"), "child\n");
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn the_task_that_runs_kill_is_left_running_and_named() {
    let place = Place::new();
    let script = format!("sleep 300 & {PROCLEDGER} kill self; echo code $?");
    let answer = run(&place, &["run", "--task", "self", "--", "sh", "-c", &script]).expect(0);
    assert!(answer.out.ends_with("code 3\n"), "{answer:?}");
    let lines: Vec<&str> = answer.err.lines().collect();
    assert_eq!(lines.len(), 1, "{answer:?}");
    assert!(lines[0].starts_with("procledger: task self runs this command"), "{answer:?}");
    assert_eq!(place.alive(), [0_u32; 0], "the helper was ended");
}

#[test]
fn json_prints_the_report_as_json() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], SLEEPER);
    let report = run(&place, &["kill", "t", "--json"]).expect(0).json();
    assert_eq!(report["endings"][0]["task_id"], "t", "{report:#}");
    assert_eq!(report["endings"][0]["outcome"], "term", "{report:#}");
    running.finish().expect(128 + 15);
}

#[test]
fn ps_lists_only_the_named_tasks() {
    let place = Place::new();
    run(&place, &["run", "--task", "a/old", "--", "true"]).expect(0);
    let _running = ["a/web", "b"].map(|task| Running::start(&place, task, &[], SLEEPER));
    let tasks = |args: &[&str]| {
        let rows = run(&place, &[&["ps", "--json"], args].concat()).expect(0).json();
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| row["task_id"].as_str().expect("a task").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tasks(&["b"]), ["b"]);
    assert_eq!(tasks(&["a/*"]), ["a/web"]);
    assert_eq!(tasks(&["a/*", "--all"]), ["a/web", "a/old"]);
    assert_eq!(tasks(&["missing"]), [""; 0]);
    let table = run(&place, &["ps", "b"]).expect(0).out;
    assert!(table.lines().count() == 2 && !table.contains("a/web"), "{table}");
}
