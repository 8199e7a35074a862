//! `procledger demo`: shows the cleanup after a crash and leaves nothing behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::fd::AsFd,
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{answer, bare, bytes_of, finish},
    support::{Place, pidfd, until},
};

#[test]
fn it_exits_0_and_leaves_nothing() {
    let place = Place::new();
    let answer = answer(bare(&place).arg("demo").env("TMPDIR", place.path())).expect(0);
    assert!(answer.out.contains("7 of its 7 processes are still running"), "{answer:?}");
    assert!(
        answer.out.contains("ended by KILL") && answer.out.contains("Nothing is left."),
        "{answer:?}"
    );
    assert_eq!(place.alive(), [0_u32; 0]);
    assert!(bytes_of(place.path()).is_empty(), "it left files");
}

#[test]
fn keep_leaves_a_ledger_to_inspect() {
    let place = Place::new();
    answer(bare(&place).args(["demo", "--keep"]).env("TMPDIR", place.path())).expect(0);
    let folder =
        fs::read_dir(place.path()).expect("a folder").next().expect("kept").expect("an entry");
    let ledger = folder.path().join("ledger.db");
    let report = answer(bare(&place).arg("--db").arg(&ledger).args(["report", "--format", "json"]));
    assert_eq!(report.expect(0).json().as_array().expect("leaks").len(), 7);
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn it_runs_without_a_home() {
    let place = Place::new();
    answer(bare(&place).arg("demo").env("TMPDIR", place.path()).env_remove("HOME")).expect(0);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let place = Place::new();
    let mut child = bare(&place).arg("demo").env("TMPDIR", place.path()).spawn().expect("a demo");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("1. ") {
        line.clear();
        out.read_line(&mut line).expect("the first act");
    }
    let fd = pidfd(child.id()).expect("it is ours and not waited for");
    pidfd_send_signal(fd.as_fd(), Signal::INT).expect("a signal");
    // The output has no reader any more, which must not matter.
    drop(out);
    finish(child).expect(130);
    until("nothing is left", || place.alive().is_empty());
    assert!(bytes_of(place.path()).is_empty(), "it left files");
}
