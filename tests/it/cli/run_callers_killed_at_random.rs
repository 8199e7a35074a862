//! Callers in four languages are killed at random moments: no tree outlives its caller, each leak
//! is in the report, and the task can be started again. A sample of moments; with
//! `PROCLEDGER_LONG=1` fifty for each language, containment and tree.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::command::{PROCLEDGER, clean, containments, run},
    support::{
        FairClock, Guard, Place, in_namespace_with_init, long, others, sampled, state, status,
        tool, until,
    },
};

const GRACE: Duration = Duration::from_millis(300);
/// What an end may take beyond the grace, by a [`FairClock`].
const LIMIT: Duration = Duration::from_secs(2);

/// Each starts `run` with its own PID as the owner, and waits for it.
const PYTHON: &str = r#"
import os, subprocess, sys
subprocess.run([os.environ["P"], "run", "--task", "t", "--owner", str(os.getpid()), *sys.argv[1:]])
"#;
const NODE: &str = r#"
const { spawn } = require("node:child_process");
const args = ["run", "--task", "t", "--owner", String(process.pid), ...process.argv.slice(2)];
spawn(process.env.P, args, { stdio: "inherit" });
"#;
const GO: &str = r#"package main

import (
	"os"
	"os/exec"
	"strconv"
)

func main() {
	args := append([]string{"run", "--task", "t", "--owner", strconv.Itoa(os.Getpid())}, os.Args[1:]...)
	_ = exec.Command(os.Getenv("P"), args...).Run()
}
"#;
const SHELL: &str = r#""$P" run --task t --owner $$ "$@"; :"#;

/// Obedient; with a member that ignores SIGTERM; with a daemon in a session of its own.
const TREES: [&str; 3] = [
    "sleep 3600 & wait",
    "sh -c 'trap \"\" TERM; while :; do sleep 3600; done' & wait",
    "(setsid sleep 3600 &); exec sleep 3600",
];

fn play(language: &str, caller: &[&str]) {
    let times = if long() { 50 } else { sampled(1, 2) };
    for containment in containments() {
        for tree in TREES {
            let place = Place::new();
            for _ in 0..times {
                kill_a_caller(&place, caller, containment, tree);
            }
            let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
            let rows = rows.as_array().expect("rows");
            let orphans = rows.iter().filter(|row| row["end_reason"] == "orphan").count();
            let leaks = run(&place, &["report", "--format", "json"]).expect(0).json();
            let leaks = leaks.as_array().expect("leaks").len();
            assert_eq!(leaks, orphans, "{language}, {containment}, {tree}");
        }
    }
}

fn kill_a_caller(place: &Place, caller: &[&str], containment: &str, tree: &str) {
    let moment = Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]));
    let mut command = Command::new(caller[0]);
    clean(&mut command, place);
    let grace = format!("{}ms", GRACE.as_millis());
    command.env("P", PROCLEDGER).env("PROCLEDGER_DB", place.ledger()).args(&caller[1..]);
    command.args(["--containment", containment, "--grace", &grace, "--", "sh", "-c", tree]);
    command.current_dir(place.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Guard(command.spawn().expect("a caller"));
    thread::sleep(moment);
    let clock = FairClock::start(others);
    child.0.kill().expect("killed");
    child.0.wait().expect("a child");
    until("nothing lives", || others().is_empty());
    let took = clock.stop();
    assert!(took < GRACE + LIMIT, "{caller:?}, {containment}, {tree}, {moment:?}: {took:?}");
    run(place, &["run", "--task", "t", "--", "true"]).expect(0);
}

fn script(place: &Place, name: &str, text: &str) -> String {
    let path = place.path().join(name);
    fs::write(&path, text).expect("a script");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn no_tree_outlives_a_killed_python_caller() {
    let test = "cli::run_callers_killed_at_random::no_tree_outlives_a_killed_python_caller";
    if in_namespace_with_init(test) && tool("python3").is_some() {
        let place = Place::new();
        play("python", &["python3", &script(&place, "caller.py", PYTHON)]);
    }
}

#[test]
fn no_tree_outlives_a_killed_node_caller() {
    let test = "cli::run_callers_killed_at_random::no_tree_outlives_a_killed_node_caller";
    if in_namespace_with_init(test) && tool("node").is_some() {
        let place = Place::new();
        play("node", &["node", &script(&place, "caller.js", NODE)]);
    }
}

#[test]
fn no_tree_outlives_a_killed_go_caller() {
    let test = "cli::run_callers_killed_at_random::no_tree_outlives_a_killed_go_caller";
    if in_namespace_with_init(test) && tool("go").is_some() {
        let place = Place::new();
        let path = script(&place, "caller.go", GO);
        let built = path.replace(".go", "");
        let mut compiler = Command::new("go");
        compiler.args(["build", "-o", &built, &path]).env("GOCACHE", place.path().join("cache"));
        assert!(compiler.status().expect("go").success());
        play("go", &[&built]);
    }
}

#[test]
fn no_tree_outlives_a_killed_shell_caller() {
    if in_namespace_with_init(
        "cli::run_callers_killed_at_random::no_tree_outlives_a_killed_shell_caller",
    ) {
        play("sh", &["sh", "-c", SHELL, "sh"]);
    }
}

/// Otherwise the limit above would prove nothing.
#[test]
fn the_clock_counts_sleep_and_excludes_waits_for_a_processor() {
    if tool("taskset").is_none() {
        return;
    }
    let place = Place::new();
    let pause = Duration::from_millis(500);
    let asleep = place.child("exec sleep 3600");
    let watched = asleep.pid();
    let line = format!("/proc/{watched}/cmdline");
    until("it is asleep", || {
        fs::read(&line).is_ok_and(|line| line.starts_with(b"sleep")) && state(watched) == Some('S')
    });
    let clock = FairClock::start(move || vec![watched]);
    thread::sleep(pause);
    let counted = clock.stop();
    assert!(counted > pause.mul_f64(0.9), "{counted:?} of a sleep");

    // On one processor, each of them waits for half of the time.
    let own = status(std::process::id());
    let cpus =
        own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
    let cpu: String = cpus.trim().chars().take_while(char::is_ascii_digit).collect();
    let script = format!("exec taskset -c {cpu} sh -c 'echo > up-$$; while :; do :; done'");
    let busy = || place.child(&script);
    let busy = [busy(), busy()];
    for one in &busy {
        place.wait_for(&format!("up-{}", one.pid()));
    }
    let pids = busy.each_ref().map(Guard::pid);
    let began = Instant::now();
    let clock = FairClock::start(move || pids.to_vec());
    thread::sleep(pause);
    let counted = clock.stop();
    let took = began.elapsed();
    assert!(counted < took.mul_f64(0.5), "{counted:?} of {took:?} with two for one processor");
}
