//! Where each invariant of the design is held by a scenario, and the scenarios that have no other place.
//!
//! | invariant | scenario |
//! | --- | --- |
//! | 2, no signal to a number | [`invariant_02_a_reused_pid_gets_no_signal`] |
//! | 3, unknown is neither dead nor a leak | [`invariant_03_what_cannot_be_judged_is_left_as_it_is`] |
//! | 4, death is told by the pidfd | [`invariant_04_a_death_is_told_by_the_pidfd_and_not_by_the_state_letter`] |
//! | 5, rows move by conditional update | [`invariant_05_two_hosts_that_restart_at_once_end_each_orphan_once`] |
//! | 6, no transaction across a wait | [`invariant_06_a_host_that_waits_for_a_stubborn_tree_holds_up_no_other_writer`] |
//! | 7, a live instance's processes are its own | [`invariant_07_the_other_instance_reaps_the_dead_ones_and_keeps_its_own`] |
//! | 8, clean before new | [`invariant_08_what_a_crash_left_is_dead_before_open_returns`] |
//! | 9, the export follows | [`invariant_09_the_export_holds_exactly_the_running_tasks_and_no_reader_sees_half_a_file`] |
//! | 10, fail closed | [`invariant_10_what_cannot_be_recorded_never_runs`], [`invariant_10_what_is_ours_is_ended_though_it_cannot_be_recorded`] |
//! | 11, every end has a reason | [`invariant_11_every_end_has_a_reason_and_every_kill_its_rule_and_evidence`] |
//! | 12, nothing is lost | [`invariant_12_what_cannot_be_killed_stays_in_the_ledger_and_is_tried_again`] |
//! | 13, never oneself | [`invariant_13_a_host_that_one_of_its_tasks_restarts_lives_and_the_old_tree_is_gone`] |

use std::{fs, process::Command};

use procledger::Tracker;

use crate::support::{Eye, Guard, Host, Place, in_namespace, is_alive, until};

/// In a namespace of its own, where nobody else takes numbers.
#[test]
fn invariant_02_a_reused_pid_gets_no_signal() {
    if !in_namespace("invariants::invariant_02_a_reused_pid_gets_no_signal") {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "exec sleep 3600");
    host.crash();
    task.kill();
    // This test is the namespace's first process, so the orphan is its child now.
    let pid = nix::unistd::Pid::from_raw(task.pid().cast_signed());
    nix::sys::wait::waitpid(pid, None).expect("reaped");
    let mut stranger = with_pid(task.pid());

    let mut next = Host::start(&place, "");
    assert!(stranger.is_running(), "who has the number now is not the task");
    assert_eq!(place.sqlite3("SELECT state, end_reason FROM process"), "ended|gone");
    assert_eq!(place.sqlite3("SELECT count(*) FROM leak"), "0");
    // The same under a live owner, whom nobody told of the end: no monitor.
    next.ask("health");
    assert!(stranger.is_running() && is_alive(stranger.pid()));
    next.stop();
    assert!(stranger.is_running());
}

/// A program with this very number.
fn with_pid(pid: u32) -> Guard {
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root may");
        let child = Command::new("sleep").arg("3600").stdin(std::process::Stdio::null()).spawn();
        let guard = Guard(child.expect("sleep"));
        if guard.pid() == pid {
            return guard;
        }
    }
    panic!("nobody got pid {pid}");
}

/// Somebody who keeps the ledger from being written, such as a person in `sqlite3`.
fn locked(place: &Place) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    connection
}

#[test]
fn invariant_10_what_cannot_be_recorded_never_runs() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let lock = locked(&place);
    let error = tracker.spawn(place.job("task", "touch ran")).expect_err("no row, no program");
    assert!(error.is_busy(), "{error}");
    assert_eq!(place.alive(), [0_u32; 0], "the child at the gate is gone");
    assert!(!place.path().join("ran").exists());
    drop(lock);
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
    let mut process = tracker.spawn(place.job("task", "touch ran")).expect("recorded");
    assert!(process.wait().expect("waited").success());
    assert!(place.path().join("ran").exists());
}

#[test]
fn invariant_10_what_is_ours_is_ended_though_it_cannot_be_recorded() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "setsid sleep 3600 & echo $! > daemon; wait"));
    let root = Eye::on(process.expect("spawned").pid().get());
    let daemon = place.eye("daemon");
    let lock = locked(&place);
    let report = tracker.terminate("task").expect("ended");
    assert!(root.is_dead() && daemon.is_dead(), "{report:?}");
    drop(lock);
    until("it is recorded when it can be", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3("SELECT count(*) FROM running") == "0"
    });
    let row = "SELECT end_reason FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(row), "terminated");
    tracker.spawn(place.job("task", "exit 0")).expect("the task may run again");
}

/// The table above names tests that exist.
#[test]
fn every_invariant_but_the_first_has_a_scenario_that_the_table_names() {
    let sources: String = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"))
        .expect("the suite")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.is_file())
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    for number in 2..=13 {
        let row = format!("//! | {number}, ");
        let row = include_str!("invariants.rs").lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("no row for invariant {number}"));
        let names: Vec<&str> =
            row.split("[`").skip(1).filter_map(|part| part.split('`').next()).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            assert!(name.starts_with(&format!("invariant_{number:02}_")), "{name}");
            assert!(sources.contains(&format!("fn {name}()")), "there is no test {name}");
        }
    }
}
