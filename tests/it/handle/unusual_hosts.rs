//! Hosts that fork, ignore SIGCHLD, or reap any child.

use std::os::unix::process::ExitStatusExt;

use crate::support::{Host, PidfdWatch, Place, is_alive, namespaced, namespaces, until};

#[test]
fn a_forked_child_is_refused_and_its_exit_shuts_nothing_down() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "exec sleep 3600");
    let answer = host.ask("fork");
    assert!(answer.starts_with("closed=true "), "{answer}");
    assert!(answer.ends_with("; shutdown checked 0"), "{answer}");
    assert!(is_alive(task.pid()));
    assert_eq!(place.sqlite3("SELECT stopped_at IS NULL FROM instance"), "1");
    assert_eq!(place.sqlite3("SELECT task_id FROM process"), "task");
    let more = host.spawn("more", "exec sleep 3600");
    assert!(!more.is_dead(), "the parent's tracker works on");
    host.stop();
    assert!(task.is_dead() && more.is_dead());
}

/// Only the PIDs were compared: the copy of the tracker took itself for the original, and its exit
/// shut that down.
#[test]
fn a_forked_child_with_the_same_pid_in_another_namespace_was_taken_for_its_parent() {
    if !namespaces() {
        return;
    }
    let place = Place::new();
    let host = namespaced(std::env::current_exe().expect("this binary"));
    let options = "containment=session";
    let mut host = Host::launch_by(host, &place, &place.ledger(), options);
    let opened = host.answer();
    assert!(opened.starts_with("open "), "{opened}");
    assert!(host.ask("spawn task exec sleep 3600").starts_with("pid "));
    assert_eq!(place.sqlite3("SELECT pid FROM instance"), "1");
    let answer = host.ask("fork-twice");
    assert!(answer.starts_with("closed=true "), "{answer}");
    assert!(answer.ends_with("; pid 1; shutdown checked 0"), "{answer}");
    assert_eq!(place.sqlite3("SELECT stopped_at IS NULL FROM instance"), "1");
    assert_eq!(place.sqlite3("SELECT task_id, state FROM process"), "task|running");
    host.stop();
    assert_eq!(place.sqlite3("SELECT state FROM process"), "ended");
}

fn loses_at_most_codes(options: &str) {
    let place = Place::new();
    let mut host = Host::start(&place, options);
    for number in 0..5 {
        host.ask(&format!("spawn code-{number} exit 5"));
        let status = host.ask(&format!("wait code-{number}"));
        assert!(status == "exit code 5" || status == "unobserved", "{options}: {status}");
    }
    let rows = "SELECT count(*) FROM process WHERE state = 'ended' AND (exit_code = 5 OR exit_code IS NULL)
                AND end_reason IN ('exited', 'gone')";
    assert_eq!(place.sqlite3(rows), "5", "{options}");
    let killed = host.spawn("killed", "exec sleep 3600");
    killed.kill();
    until("its end is recorded", || host.ask("running") == "0");
    let tree = host.spawn("tree", "trap '' TERM; setsid sleep 3600 & sleep 3600 & wait");
    assert_ne!(host.ask("terminate tree"), "0");
    assert!(tree.is_dead(), "{options}");
    let orphan = host.spawn("orphan", "sleep 3600 & wait");
    host.crash();
    assert!(!orphan.is_dead());
    let next = Host::start(&place, options);
    assert!(orphan.is_dead(), "{options}");
    let left: Vec<u32> = place.alive().into_iter().filter(|&pid| pid != next.pid()).collect();
    assert_eq!(left, [0_u32; 0], "{options}");
    next.stop();
}

#[test]
fn a_host_that_ignores_sigchld_loses_at_most_exit_codes() {
    loses_at_most_codes("sigchld-ignored");
}

#[test]
fn a_host_that_reaps_every_child_loses_at_most_exit_codes() {
    loses_at_most_codes("wait-any");
}

#[test]
fn a_registered_child_keeps_its_status_for_its_parent() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let mut child = place.child("exec sleep 3600");
    host.ask(&format!("register task {}", child.pid()));
    assert_eq!(host.ask("terminate task"), "1");
    assert!(PidfdWatch::on(child.pid()).is_dead());
    assert_eq!(child.0.wait().expect("a status").signal(), Some(15));
    host.stop();
}
