//! A page of the ledger is damaged, as by a failing disk: every operation that needs it is refused,
//! and the damage is reported.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use procledger::Tracker;

use crate::support::{Host, Place, sqlite3};

/// Overwrites the first page of a table or an index.
fn damage(ledger: &Path, name: &str) {
    let number = |query: &str| sqlite3(ledger, query).parse::<u64>().expect("a number");
    let page = number(&format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'"));
    let size = number("PRAGMA page_size");
    let mut file = File::options().write(true).open(ledger).expect("a ledger");
    file.seek(SeekFrom::Start((page - 1) * size)).expect("there");
    file.write_all(&vec![0xEE; usize::try_from(size).expect("small")]).expect("damaged");
}

/// A ledger with a history, whose orphan lives.
fn ledger_with_an_orphan(place: &Place) -> crate::support::PidfdWatch {
    let mut host = Host::start(place, "");
    host.ask("spawn past exit 0");
    host.ask("wait past");
    let orphan = host.spawn("left", "exec sleep 3600");
    host.crash();
    // All of it in one file.
    let open = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    open.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("written back");
    orphan
}

#[test]
fn every_command_names_a_damaged_table_and_ends_nothing_on_a_guess() {
    let place = Place::new();
    let orphan = ledger_with_an_orphan(&place);
    damage(&place.ledger(), "process");
    let error = Tracker::builder(place.ledger()).open().expect_err("it cannot be read");
    assert!(error.is_not_a_ledger(), "{error:?}");
    assert!(error.to_string().contains("is damaged, `procledger doctor` shows where"), "{error}");
    for verb in [
        &["ps"][..],
        &["reap"],
        &["health"],
        &["kill", "left"],
        &["run", "--task", "new", "--", "true"],
    ] {
        let output = place.procledger(verb);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{verb:?}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("is damaged"), "{text}");
    }
    assert!(!orphan.is_dead());
    let doctor = place.procledger(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(!doctor.status.success());
    assert!(text.contains("problem  integrity: ") && text.contains("restore a backup"), "{text}");
}

#[test]
fn a_damaged_index_is_found_by_doctor_and_a_backup_restores_everything() {
    let place = Place::new();
    let orphan = ledger_with_an_orphan(&place);
    let backup = place.path().join("backup.db");
    fs::copy(place.ledger(), &backup).expect("no writer is left");
    damage(&place.ledger(), "process_ended");
    let doctor = || {
        let output = place.procledger(&["doctor"]);
        String::from_utf8(output.stdout).expect("text")
    };
    let text = doctor();
    assert!(text.contains("problem  integrity: ") && text.contains("restore a backup"), "{text}");
    assert!(!orphan.is_dead());

    // Into the file, not over its name: a ledger that was copied elsewhere ends nothing.
    fs::copy(&backup, place.ledger()).expect("restored");
    let text = doctor();
    assert!(text.contains("ok       integrity: "), "{text}");
    let reaped = place.procledger(&["reap"]);
    assert!(reaped.status.success(), "{}", String::from_utf8_lossy(&reaped.stderr));
    assert!(orphan.is_dead());
    let rows = "SELECT task_id, end_reason FROM history ORDER BY task_id";
    assert_eq!(place.sqlite3(rows), "left|orphan\npast|exited");
}
