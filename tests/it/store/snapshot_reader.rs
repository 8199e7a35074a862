//! A transaction stays open in `sqlite3`: the WAL cannot be emptied, and `doctor` reports which
//! process holds it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use procledger::{Level, Tracker, diagnose};
use rusqlite::Connection;

use crate::support::{Guard, Place, need, until};

/// The same value as in `store::connection`.
const WAL_LIMIT: u64 = 4 << 20;

/// A `sqlite3` in a transaction that has read.
fn reader(place: &Place) -> Guard {
    let mut child = Guard(
        Command::new("sqlite3")
            .arg("-readonly")
            .arg(place.ledger())
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3"),
    );
    let mut stdin = child.0.stdin.take().expect("piped");
    writeln!(stdin, "BEGIN; SELECT 'reads', count(*) FROM instance;").expect("it listens");
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("reads|"), "{line}");
    child.0.stdin = Some(stdin);
    child
}

fn wal_bytes(place: &Place) -> u64 {
    fs::metadata(place.path().join("ledger.db-wal")).map_or(0, |file| file.len())
}

/// Commits from another process, until the WAL is larger than its limit.
fn fill_wal(place: &Place) {
    let writer = Connection::open(place.ledger()).expect("opens");
    writer.busy_timeout(Duration::from_secs(10)).expect("set");
    writer.execute_batch("CREATE TABLE filler (x)").expect("created");
    while wal_bytes(place) < WAL_LIMIT + (1 << 20) {
        writer.execute("INSERT INTO filler VALUES (randomblob(100000))", []).expect("committed");
    }
}

#[test]
fn doctor_names_the_reader_and_the_wal_shrinks_within_a_pass_of_its_end() {
    need!("sqlite3");
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger())
        .health_interval(Duration::from_millis(200))
        .open()
        .expect("a ledger");
    let wal = || {
        let findings = diagnose(&place.ledger(), None);
        findings.into_iter().find(|finding| finding.check == "wal").expect("a finding")
    };
    assert_eq!(wal().level, Level::Ok, "{:?}", wal());
    let mut reader = reader(&place);
    fill_wal(&place);
    let finding = wal();
    assert_eq!(finding.level, Level::Warning, "{finding:?}");
    let name = format!("process {} (sqlite3)", reader.pid());
    assert!(finding.detail.contains(&name), "{finding:?}");
    assert!(!finding.detail.contains(&format!("process {} ", std::process::id())), "{finding:?}");
    // Some passes follow: they cannot empty it, and block nothing.
    let passes = tracker.ledger().passes(None, 1_000).expect("read").len();
    until("three more passes", || {
        tracker.ledger().passes(None, 1_000).expect("read").len() >= passes + 3
    });
    assert!(wal_bytes(&place) > WAL_LIMIT);
    drop(reader.0.stdin.take());
    assert!(reader.0.wait().expect("reaped").success());
    until("the WAL is back at its limit", || wal_bytes(&place) <= WAL_LIMIT);
    assert_eq!(wal().level, Level::Ok, "{:?}", wal());
    tracker.shutdown().expect("an orderly end");
}
