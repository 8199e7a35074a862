//! A ledger is copied while it is in use, and the copy is reaped.

use std::{path::Path, process::Output};

use rusqlite::{Connection, MAIN_DB};

use crate::support::{Host, Place, is_alive, namespaced, namespaces, procledger, sqlite3};

/// Copies as `.backup` of `sqlite3` does.
fn backup(from: &Path, to: &Path) {
    let from = Connection::open(from).expect("a ledger");
    from.backup(MAIN_DB, to, None).expect("copied");
}

/// A script could not see that a `reap` had left something, since it exited with 0.
#[track_caller]
fn is_unknown(reap: &Output) {
    assert_eq!(reap.status.code(), Some(3), "{reap:?}");
    let said = String::from_utf8_lossy(&reap.stderr);
    assert!(said.contains("1 process could not be examined and may still run: "), "{said}");
}

#[test]
fn invariant_03_rows_that_cannot_be_checked_are_left_unchanged() {
    let place = Place::new();
    let copies = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "sleep 3600 & wait");
    let live = "SELECT count(*) FROM process WHERE state = 'running' AND task_id = 'task'";

    let during = copies.path().join("during.db");
    backup(&place.ledger(), &during);
    is_unknown(&procledger(&during, &["reap"]));
    assert!(!task.is_dead(), "a copy kills nothing");
    assert_eq!(sqlite3(&during, live), "1", "its rows stay as they are");

    host.crash();
    let after = copies.path().join("after.db");
    backup(&place.ledger(), &after);
    for copy in [&during, &after] {
        for words in [&["reap"][..], &["health"]] {
            let done = procledger(copy, words);
            if words == ["reap"] {
                is_unknown(&done);
            } else {
                assert_eq!(done.status.code(), Some(0), "{done:?}");
            }
            assert!(!task.is_dead() && is_alive(task.pid()), "nor after its host has died");
            assert_eq!(sqlite3(copy, live), "1", "{words:?}");
            assert_eq!(sqlite3(copy, "SELECT count(*) FROM leak"), "0");
        }
    }
    // A copy beside the original sees the original's lock files, and still proves nothing.
    let beside = place.path().join("beside.db");
    backup(&place.ledger(), &beside);
    is_unknown(&procledger(&beside, &["reap"]));
    assert!(!task.is_dead());
    assert_eq!(sqlite3(&beside, live), "1");

    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(task.is_dead(), "the original may");
}

/// Its uuid identifies a ledger, also in a copy; a new ledger at the same path has another uuid.
#[test]
fn a_copy_could_not_be_recognized_as_a_copy_of_its_ledger() {
    let place = Place::new();
    let copies = Place::new();
    let uuid = |ledger: &Path| {
        let findings = procledger(ledger, &["doctor", "--json"]).stdout;
        let findings: serde_json::Value = serde_json::from_slice(&findings).expect("JSON");
        let line = findings.as_array().expect("a list").iter().find(|line| line["check"] == "uuid");
        let shown = line.expect("a line")["detail"].as_str().expect("text").to_owned();
        assert_eq!(shown, sqlite3(ledger, "SELECT uuid FROM ledger"));
        assert!(uuid::Uuid::try_parse(&shown).is_ok(), "{shown}");
        shown
    };
    let host = Host::start(&place, "");
    let original = uuid(&place.ledger());
    let (copy, compact) = (copies.path().join("copy.db"), copies.path().join("compact.db"));
    backup(&place.ledger(), &copy);
    let vacuum = format!("VACUUM INTO '{}'", compact.display());
    Connection::open(place.ledger()).expect("a ledger").execute_batch(&vacuum).expect("copied");
    // A copy that is written to stays one.
    assert!(procledger(&copy, &["reap"]).status.success());
    assert_eq!([uuid(&copy), uuid(&compact)], [original.as_str(); 2]);
    host.stop();

    std::fs::remove_file(place.ledger()).expect("removed");
    Host::start(&place, "").stop();
    assert_ne!(uuid(&place.ledger()), original);
}

#[test]
fn processes_of_another_pid_namespace_are_left_unchanged() {
    if !namespaces() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let task = host.spawn("task", "exec sleep 3600");
    host.crash();
    let inside = namespaced(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(place.ledger())
        .arg("reap")
        .output()
        .expect("unshare is installed");
    is_unknown(&inside);
    assert!(!task.is_dead());
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
    assert_eq!(place.sqlite3("SELECT unknown FROM pass ORDER BY id DESC LIMIT 1"), "1");
    Host::start(&place, "").stop();
    assert!(task.is_dead(), "an instance that can check it ends it");
}
