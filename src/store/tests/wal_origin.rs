//! A ledger beside the WAL of another file.

use std::{fs, path::Path};

use rusqlite::{Connection, MAIN_DB};

use super::fixture::*;
use crate::{
    error::Kind,
    store::{Store, trust::beside},
};

/// One instance that opens the ledger, records itself and closes it.
fn visit(path: &Path, pid: i64) {
    let store = open(path).expect("opened");
    store.add_instance(&instance("visitor", here(), pid)).expect("recorded");
}

/// Writes so much that the ledger is closed without a WAL.
fn write_much(path: &Path) {
    let other = Connection::open(path).expect("opened");
    other
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS big (x); DELETE FROM big;
             INSERT INTO big VALUES (zeroblob(2000000));",
        )
        .expect("written");
}

fn is_refused(path: &Path) {
    let before = fs::read(path).expect("read");
    for error in [
        open(path).map(drop).expect_err("it is not its WAL"),
        Store::open_read_only(path).map(drop).expect_err("nor to read"),
    ] {
        assert_eq!(error.kind(), Kind::NotALedger);
        let message = error.to_string();
        assert!(message.contains("remove that `-wal` and the `-shm`"), "{message}");
    }
    assert_eq!(fs::read(path).expect("read"), before, "it is left as it was");
}

#[test]
fn a_backup_beside_the_wal_of_the_former_file_was_read_through_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    visit(&path, 1);
    let (copy, compact) = (folder.path().join("copy.db"), folder.path().join("compact.db"));
    let plain = folder.path().join("plain.db");
    let other = Connection::open(&path).expect("opened");
    other.backup(MAIN_DB, &copy, None).expect("copied");
    other.execute_batch(&format!("VACUUM INTO '{}'", compact.display())).expect("copied");
    drop(other);
    write_much(&path);
    assert!(!beside(&path, "-wal").exists(), "everything is in one file");
    fs::copy(&path, &plain).expect("copied");
    for pid in 2..5 {
        visit(&path, pid);
    }
    write_much(&path);
    visit(&path, 9);
    assert!(fs::metadata(beside(&path, "-wal")).expect("a WAL").len() > 0);
    for backup in [&copy, &compact, &plain] {
        for in_place in [true, false] {
            let place = tempfile::tempdir().expect("a temporary folder");
            let here = file(place.path(), "");
            for suffix in ["", "-wal", "-shm"] {
                fs::copy(beside(&path, suffix), beside(&here, suffix)).expect("copied");
            }
            visit(&here, 10);
            if in_place {
                fs::copy(backup, &here).expect("restored into the file");
            } else {
                let moved = beside(&here, "-moved");
                fs::copy(backup, &moved).expect("copied");
                fs::rename(&moved, &here).expect("restored in its place");
            }
            chmod(&here, 0o600);
            is_refused(&here);
            // The advice in the message helps.
            for suffix in ["-wal", "-shm"] {
                fs::remove_file(beside(&here, suffix)).expect("removed");
            }
            let store = open(&here).expect("opened");
            assert!(store.check().expect("checked").is_empty());
        }
    }
}

/// The WAL of a ledger is its own, whatever wrote to it, and wherever that was interrupted.
#[test]
fn the_wal_of_a_ledger_is_never_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    let long = open(&path).expect("created");
    let mut random = 1_u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    for round in 0..100 {
        let reader = Connection::open(&path).expect("opened");
        if next(3) == 0 {
            reader.execute_batch("BEGIN; SELECT * FROM instance").expect("reads");
        }
        match next(8) {
            0 => visit(&path, 100 + round),
            1 => drop(long.add_instance(&instance("long", here(), 500 + round)).expect("recorded")),
            2 => write_much(&path),
            3 => {
                let other = Connection::open(&path).expect("opened");
                other.busy_timeout(std::time::Duration::ZERO).expect("set");
                let mode = ["PASSIVE", "RESTART", "TRUNCATE"][next(3) as usize];
                // A reader may block the checkpoint.
                let _ = other.query_one(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
            }
            4 => drop(reader.execute_batch("COMMIT; PRAGMA incremental_vacuum(50)")),
            5 => drop(Connection::open(&path).expect("opened").execute_batch("VACUUM")),
            6 => {
                let other = Connection::open(&path).expect("opened");
                other
                    .execute_batch("CREATE TABLE IF NOT EXISTS seen (x); DROP TABLE seen")
                    .expect("written");
            }
            _ => {
                let other = Connection::open(&path).expect("opened");
                other
                    .execute_batch("BEGIN IMMEDIATE; PRAGMA application_id = 1886151783")
                    .expect("written");
            }
        }
        drop(Store::open_read_only(&path).expect("it is its own"));
        // A copy, as after a crash at this moment.
        let place = tempfile::tempdir().expect("a temporary folder");
        for suffix in ["", "-wal"] {
            let copied = fs::copy(beside(&path, suffix), file(place.path(), suffix));
            assert!(copied.is_ok() || suffix == "-wal", "{copied:?}");
        }
        chmod(&file(place.path(), ""), 0o600);
        drop(open(&file(place.path(), "")).expect("it is its own after a crash too"));
    }
}
