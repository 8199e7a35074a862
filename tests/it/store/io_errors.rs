//! The disk fails for a while: every write, or every read, of the ledger's files returns an error.

use std::{fs, path::PathBuf};

use crate::{
    docs::faults::Fault,
    support::{Host, PATIENCE, Place, need, until},
};

/// A host that starts, loses and ends programs while `inject` applies, and afterwards. Returns its
/// answer to a spawn.
fn while_it_fails(place: &Place, inject: &str) -> String {
    let mut host = Host::start(place, "interval=100");
    let left = host.spawn("left", "exec sleep 3600");
    let (end, ran) = (place.path().join("end"), place.path().join("ran"));
    let until_then = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 7", end.display());
    let ends = host.spawn("ends", &until_then);
    let files: Vec<PathBuf> = ["ledger.db", "ledger.db-wal", "ledger.db-shm"]
        .map(|name| place.path().join(name))
        .into_iter()
        .collect();
    let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let fault = Fault::on(place, host.pid(), inject, &files);
    let answer = host.ask(&format!("spawn new : > {}; exec sleep 3600", ran.display()));
    let started = answer.starts_with("pid ");
    fs::write(end, "").expect("a file");
    until("it ends", || ends.is_dead());
    assert_eq!(host.ask("terminate left"), "1", "a program of ours is ended all the same");
    assert!(left.is_dead());
    until("the fault was met", || Fault::hits(place) > 0);
    fault.lift();

    let rows = "SELECT task_id, end_reason, exit_code, exit_signal FROM history
        WHERE task_id IN ('ends', 'left') AND NOT descendant ORDER BY task_id";
    let mut recorded = String::new();
    let as_it_was = procledger_testing::within(PATIENCE, || {
        recorded = place.sqlite3(rows);
        recorded == "ends|exited|7|\nleft|terminated||15"
    });
    assert!(as_it_was, "what became of them is recorded: {recorded}");
    if started {
        until("it has run", || ran.exists());
        assert_eq!(host.ask("terminate new"), "1");
    }
    let again = host.spawn("new", "exec sleep 3600");
    host.stop();
    assert!(again.is_dead());
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    assert_eq!(place.alive(), [0_u32; 0]);
    assert_eq!(ran.exists(), started, "what was refused never ran");
    answer
}

#[test]
fn while_writes_fail_nothing_starts_and_ends_are_recorded_once_they_work_again() {
    need!("strace");
    let place = Place::new();
    let answer = while_it_fails(&place, "write,pwrite64:error=EIO");
    assert!(answer.contains("its disk or file system reports an error"), "{answer}");
}

#[test]
fn a_file_system_that_turned_read_only_is_named() {
    need!("strace");
    let place = Place::new();
    let answer = while_it_fails(&place, "write,pwrite64,ftruncate:error=EROFS");
    assert!(answer.starts_with("error "), "{answer}");
}

#[test]
fn a_last_checkpoint_that_fails_loses_no_row() {
    need!("strace");
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.ask("spawn task exit 7");
    assert_eq!(host.ask("wait task"), "exit code 7");
    // A small WAL is left as it is.
    let large = "CREATE TABLE large (x); INSERT INTO large VALUES (zeroblob(1000000))";
    let other = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    other.execute_batch(large).expect("written");
    drop(other);
    let fault = Fault::on(&place, host.pid(), "fsync,fdatasync,ftruncate:error=EIO", &[]);
    host.stop();
    assert!(Fault::hits(&place) > 0, "nothing was to be made durable");
    drop(fault);
    assert!(place.path().join("ledger.db-wal").exists(), "what could not be copied stays there");
    let next = Host::start(&place, "");
    assert_eq!(place.sqlite3("SELECT end_reason, exit_code FROM history"), "exited|7");
    next.stop();
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
}

#[test]
fn while_reads_fail_nothing_starts_and_ends_are_recorded_once_they_work_again() {
    need!("strace");
    let place = Place::new();
    while_it_fails(&place, "read,pread64:error=EIO");
}
