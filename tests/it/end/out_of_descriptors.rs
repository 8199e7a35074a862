//! A root ends while its host has no descriptor left, so that `/proc` cannot be read. Its row was
//! ended all the same, and the processes that it had left were lost.

use std::{
    fs::{self, File},
    process::Command,
    time::Duration,
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

use crate::{
    cli::command::{PROCLEDGER, answer, clean},
    containment::task_cgroups::can_use_cgroups,
    spawn::gate_host::{Given, in_another_process},
    support::{PATIENCE, Place, at_once, processes_with, until},
};

#[test]
fn strays_left_while_proc_cannot_be_read_are_found_later() {
    let place = Place::new();
    in_another_process(&place, "out-of-descriptors", Duration::from_mins(2));
    assert_eq!(place.sqlite3("SELECT task_id, kind FROM leaks"), "task|stray");
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// Few are left: enough to list and read `/proc`, too few for pidfds on the processes found there.
#[test]
fn strays_left_while_no_pidfd_can_be_opened_are_found_later() {
    let place = Place::new();
    in_another_process(&place, "few-descriptors", Duration::from_mins(2));
    assert_eq!(place.alive(), [0_u32; 0]);
    // For each root one in its session, and one that only its token links to it.
    let strays = 2 * 2 * FEW.count();
    let found = place.sqlite3("SELECT count(*) FROM leaks WHERE kind = 'stray'");
    assert_eq!(found, strays.to_string());
}

/// As in `exec 200> lock; ulimit -n 100`.
#[test]
fn a_descriptor_beyond_the_soft_limit_prevented_a_start_under_a_keeper() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        let place = Place::new();
        let mut command = Command::new("bash");
        clean(&mut command, &place);
        command.args(["-c", "exec 200> lock; ulimit -S -n 100; exec \"$0\" \"$@\"", PROCLEDGER]);
        command.args(["run", "--", "bash", "-c", "echo it > /proc/self/fd/200; ulimit -n"]);
        command.env("PROCLEDGER_CONTAINMENT", containment).env("PROCLEDGER_DB", place.ledger());
        let answer = answer(command.current_dir(place.path())).expect(0);
        assert_eq!(answer.out, "100\n", "{containment}");
        assert_eq!(fs::read_to_string(place.path().join("lock")).expect("a file"), "it\n");
    });
}

/// `run` started its program, lost what that had left, and exited with the program's code; or with
/// 143 after a time limit.
#[test]
fn with_few_descriptors_a_run_lost_the_strays_of_its_program() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        for limit in [4, 5, 12, 18, 20, 31, 32, 33, 36] {
            let place = Place::new();
            let left = "exec 2>&-; sleep 3600 & setsid sleep 3600 & sleep 0.1; exit 7";
            let stays = "exec 2>&-; sleep 3600 & sleep 3600";
            for (option, script, code) in [("10m", left, 7), ("300ms", stays, 124)] {
                let mut command = Command::new("bash");
                clean(&mut command, &place);
                let limited = format!("{CLOSE_OTHERS} ulimit -n {limit} && exec \"$0\" \"$@\"");
                command.args(["-c", &limited, PROCLEDGER, "--db"]).arg(place.ledger());
                command.args(["run", "--task", "t", "--grace", "100ms", "--max-runtime", option]);
                command.args(["--", "sh", "-c", script, place.marker()]);
                let answer = answer(command.env("PROCLEDGER_CONTAINMENT", containment));
                assert_eq!(place.alive(), [0_u32; 0], "{containment} {limit}: {answer:?}");
                if limit < 32 {
                    let refused = answer.expect(125);
                    let line = refused.complaint();
                    let is_named = line.contains("descriptors");
                    assert!(is_named && !place.ledger().exists(), "{containment} {limit}: {line}");
                } else {
                    answer.expect(code);
                }
            }
        }
    });
}

/// `kill` and `reap` went on, and lost processes that they had no descriptor for; the others named
/// the permissions of the ledger, or an errno alone.
#[test]
fn with_few_descriptors_a_command_did_not_name_the_limit() {
    let place = Place::new();
    let limited = |limit: u32, args: &[&str]| {
        let mut command = Command::new("bash");
        clean(&mut command, &place);
        let line = format!("{CLOSE_OTHERS} ulimit -n {limit} && exec \"$0\" \"$@\"");
        command.args(["-c", &line, PROCLEDGER]).args(args);
        answer(command.env("PROCLEDGER_DB", place.ledger()))
    };
    limited(100, &["run", "--task", "t", "--", "true"]).expect(0);
    for limit in [4, 5, 8, 9, 12, 16, 24, 31] {
        for args in [&["kill", "t"][..], &["reap"], &["health"], &["watch"]] {
            let refused = limited(limit, args).expect(1);
            let line = refused.complaint();
            assert!(
                line.ends_with("(`ulimit -n`)") || line.ends_with("(`ulimit -n 32`)"),
                "{line}"
            );
        }
        limited(limit, &["demo"]).expect(1).complaint();
        for args in [&["ps", "--all"][..], &["report"], &["metrics"]] {
            let answer = limited(limit, args);
            if answer.code() != 0 {
                let line = answer.complaint();
                assert!(line.contains("(`ulimit -n`)") && !line.contains("permission"), "{line}");
                assert!(limit < 20, "{args:?} {limit}: {line}");
            }
        }
    }
    limited(32, &["reap"]).expect(0);
    limited(32, &["health"]).expect(0);
}

/// As in `exec 200> lock; ulimit -n 100`, which lowers the hard limit as well: a keeper of an
/// ordinary user cannot open a descriptor of that number, and the message named `close_range`.
#[test]
fn a_descriptor_beyond_the_hard_limit_was_taken_for_a_refused_close_range() {
    let containments =
        ["session", "keeper", "auto"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        let place = Place::new();
        let mut command = Command::new("bash");
        clean(&mut command, &place);
        command.args(["-c", "exec 200> lock; ulimit -n 100; exec \"$0\" \"$@\"", PROCLEDGER]);
        command.args(["run", "--", "bash", "-c", "echo it > /proc/self/fd/200; ulimit -Hn"]);
        command.env("PROCLEDGER_CONTAINMENT", containment).env("PROCLEDGER_DB", place.ledger());
        let answer = answer(command.current_dir(place.path()));
        if containment == "keeper" && answer.code() == 125 {
            let line = answer.complaint();
            assert!(line.contains("beyond the hard limit on descriptors (`ulimit -Hn`)"), "{line}");
            assert!(!may_raise_limits(), "{line}");
            return;
        }
        let answer = answer.expect(0);
        assert_eq!(answer.out, "100\n", "{containment}");
        assert_eq!(fs::read_to_string(place.path().join("lock")).expect("a file"), "it\n");
    });
}

/// For bash: what the test has inherited counts for the program.
const CLOSE_OTHERS: &str =
    "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done;";

fn may_raise_limits() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// More than the soft limit of descriptors, and fewer than the hard one.
#[test]
fn more_strays_than_the_soft_limit_of_descriptors_blocked_their_run() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    let script = "ulimit -n > limit; i=0; while [ $i -lt 150 ]; do sleep 3600 & i=$((i+1)); done";
    at_once(containments, |containment| {
        let place = Place::new();
        let limited = |args: &[&str]| {
            let mut command = Command::new("sh");
            clean(&mut command, &place);
            command.args(["-c", "ulimit -S -n 64; exec \"$0\" \"$@\"", PROCLEDGER, "--db"]);
            command.arg(place.ledger()).args(args).current_dir(place.path());
            command.env("PROCLEDGER_CONTAINMENT", containment);
            command
        };
        let run = [
            "run",
            "--task",
            "t",
            "--grace",
            "100ms",
            "--clean",
            "--",
            "sh",
            "-c",
            script,
            place.marker(),
        ];
        let answer = answer(&mut limited(&run)).expect(0);
        assert_eq!(place.alive(), [0_u32; 0], "{containment}: {answer:?}");
        assert_eq!(fs::read_to_string(place.path().join("limit")).expect("it ran"), "64\n");
        let leaks = "SELECT count(*) FROM leaks WHERE kind = 'stray'";
        assert_eq!(place.sqlite3(leaks), "150", "{containment}: {answer:?}");
        assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0", "{containment}");
    });
}

const FEW: std::ops::RangeInclusive<usize> = 1..=6;

pub(crate) fn few(given: &Given) {
    for mode in [ContainmentMode::Session, ContainmentMode::Auto] {
        let tracker = given.builder().containment(mode).open().expect("a ledger");
        for left in FEW {
            end_with(left, given, &tracker);
        }
        tracker.shutdown().expect("an orderly end");
    }
}

/// A root ends and leaves two processes, while its host can open this many descriptors.
fn end_with(left: usize, given: &Given, tracker: &Tracker) {
    let tree = || processes_with(&format!("STRAY_OF={}", given.marker));
    let script =
        "trap 'exit 0' TERM; sleep 3600 & setsid sleep 3600 & while :; do sleep 0.02; done";
    let job = Job::new(format!("left-{left}"), "/bin/sh")
        .args(["-c", script, &given.marker])
        .env("STRAY_OF", &given.marker)
        .stdin(Stdio::null());
    let mut process = tracker.spawn(job).expect("it runs");
    let sleeps = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\x003600\0"))
    };
    until("it has started what it will leave", || {
        tree().iter().filter(|pid| sleeps(pid)).count() == 2
    });
    assert_eq!(tracker.ledger().roots().expect("readable").len(), 1);

    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    all.truncate(all.len() - left);
    process.signal(libc::SIGTERM).expect("sent");
    process.wait_timeout(PATIENCE).expect("a status").expect("it ends");
    drop(all);

    until("what it left is found, then or later", || {
        tracker.health_pass().expect("a pass");
        tracker.ledger().roots().expect("readable").is_empty() && tree().is_empty()
    });
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let script = "trap 'exit 0' TERM; sleep 3600 & while :; do sleep 0.02; done";
    let job = Job::new("task", "/bin/sh")
        .args(["-c", script, &given.marker])
        .env("STRAY_OF", &given.marker)
        .stdin(Stdio::null());
    let mut process = tracker.spawn(job).expect("it runs");
    let stray = || processes_with(&format!("STRAY_OF={}", given.marker)).len() > 1;
    until("it has started what it will leave", stray);
    assert_eq!(tracker.ledger().roots().expect("readable").len(), 1);

    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    process.signal(libc::SIGTERM).expect("sent");
    process.wait_timeout(PATIENCE).expect("a status").expect("it ends");
    drop(all);

    assert_eq!(
        tracker.ledger().roots().expect("readable").len(),
        1,
        "its row is all that leads to the stray"
    );
    until("the next look finds what it left", || {
        tracker.health_pass().expect("a pass");
        tracker.ledger().roots().expect("readable").is_empty() && !stray()
    });
    tracker.shutdown().expect("an orderly end");
}
