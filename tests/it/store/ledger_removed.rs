//! The ledger or its WAL is removed, replaced or emptied while a host has it open. SQLite would go
//! on writing to files that cannot be found any more.

use std::{fs, path::PathBuf};

use crate::{
    cli::command::{Running, procledger},
    support::{Host, Place, sqlite3, until},
};

const ROW: &str = "SELECT end_reason, exit_signal FROM history WHERE task_id = 'left'";

/// The ledger, its WAL and the WAL's index.
fn files(place: &Place) -> [PathBuf; 3] {
    ["ledger.db", "ledger.db-wal", "ledger.db-shm"].map(|name| place.path().join(name))
}

fn remove(files: &[PathBuf]) {
    for file in files {
        fs::remove_file(file).expect("removed");
    }
}

fn log(place: &Place) -> String {
    fs::read_to_string(place.path().join("log")).unwrap_or_default()
}

fn host(place: &Place) -> Host {
    Host::start(place, &format!("interval=100 log={}", place.path().join("log").display()))
}

/// Nothing starts, and the host's log reports the reason at each pass.
fn is_refused(place: &Place, host: &mut Host, why: &str) {
    let ran = place.path().join("ran");
    until("a pass has said so", || {
        log(place).lines().any(|line| line.contains("health pass") && line.contains(why))
    });
    let answer = host.ask(&format!("spawn new : > {}; exec sleep 3600", ran.display()));
    assert!(
        answer.starts_with("error the program was not started: ") && answer.contains(why),
        "{answer}"
    );
    assert!(!ran.exists());
}

#[test]
fn a_ledger_that_was_moved_away_and_back_contains_the_ends_of_its_programs() {
    let place = Place::new();
    let mut host = host(&place);
    let left = host.spawn("left", "exec sleep 3600");
    let [ledger, ..] = files(&place);
    let away = place.path().join("away.db");
    fs::rename(&ledger, &away).expect("moved");
    is_refused(&place, &mut host, "was removed while it was open: put it back, or restart");
    assert_eq!(host.ask("terminate left"), "1");
    assert!(left.is_dead());

    fs::rename(&away, &ledger).expect("moved back");
    until("what became of it is recorded", || place.sqlite3(ROW) == "terminated|15");
    host.spawn("new", "exec sleep 3600");
    host.stop();
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
}

#[test]
fn a_host_whose_ledger_was_removed_ends_its_programs_and_the_next_one_creates_another() {
    let place = Place::new();
    let mut host = host(&place);
    let left = host.spawn("left", "exec sleep 3600");
    remove(&files(&place));
    is_refused(&place, &mut host, "was removed while it was open");
    assert!(!left.is_dead());
    assert!(!files(&place)[0].exists(), "nothing is made under its name");
    host.end();
    assert!(left.is_dead());

    let mut next = self::host(&place);
    next.spawn("left", "exec sleep 3600");
    next.stop();
    assert_eq!(place.sqlite3(ROW), "shutdown|15");
}

#[test]
fn the_exit_code_of_a_program_whose_ledger_was_removed_was_lost() {
    for (code, expected) in [(7, 7), (0, 125)] {
        let place = Place::new();
        let script = format!("echo up; while [ ! -e go ]; do sleep 0.05; done; exit {code}");
        let mut command = procledger(&place);
        command.current_dir(place.path()).args(["run", "--task", "t", "--", "sh", "-c", &script]);
        let running = Running::spawn(&mut command);
        remove(&files(&place));
        fs::write(place.path().join("go"), "").expect("a file");
        let answer = running.finish().expect(expected);
        assert!(answer.err.contains("was removed while it was open"), "{answer:#?}");
        let is_unknown = "procledger: why task t has ended is unknown: ";
        assert_eq!(answer.err.contains(is_unknown), code != 0, "{answer:#?}");
    }
}

/// Both count their rows from 1.
#[test]
fn a_host_whose_ledger_was_replaced_spares_the_programs_in_the_new_one() {
    let place = Place::new();
    let mut old = host(&place);
    let first = old.spawn("first", "exec sleep 3600");
    remove(&files(&place));
    let mut new = Host::start(&place, "interval=100");
    let second = new.spawn("second", "exec sleep 3600");
    is_refused(&place, &mut old, "was replaced by another file while it was open");
    assert!(old.ask("terminate second").starts_with("error "));
    assert_eq!(old.ask("terminate first"), "1");
    assert!(first.is_dead() && !second.is_dead());
    old.end();
    assert!(!second.is_dead());
    assert_eq!(place.sqlite3("SELECT task_id FROM running"), "second");
    new.stop();
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
}

#[test]
fn orphans_recorded_in_a_removed_wal_are_ended_by_the_next_host() {
    let place = Place::new();
    let mut host = host(&place);
    let left = host.spawn("left", "exec sleep 3600");
    let [ledger, wal, index] = files(&place);
    assert!(fs::metadata(&wal).expect("a WAL").len() > 0);
    remove(&[wal, index]);
    is_refused(&place, &mut host, "-wal` was removed while the ledger was open");
    host.crash();
    assert!(!left.is_dead());

    assert_eq!(sqlite3(&ledger, "SELECT task_id FROM running"), "left");
    let next = Host::start(&place, "");
    assert!(left.is_dead());
    assert_eq!(place.sqlite3("SELECT end_reason FROM history WHERE task_id = 'left'"), "orphan");
    next.stop();
}

#[test]
fn an_emptied_ledger_is_no_longer_written_to() {
    let place = Place::new();
    let mut host = host(&place);
    let left = host.spawn("left", "exec sleep 3600");
    fs::write(place.ledger(), "").expect("emptied");
    is_refused(&place, &mut host, "was emptied while it was open");
    assert_eq!(host.ask("terminate left"), "1");
    assert!(left.is_dead());
    host.end();
    is_reported_as_damaged(&place);
}

#[test]
fn a_ledger_that_was_emptied_before_a_crash_does_not_count_as_new() {
    let place = Place::new();
    let mut host = host(&place);
    let left = host.spawn("left", "exec sleep 3600");
    fs::write(place.ledger(), "").expect("emptied");
    host.crash();
    assert!(!left.is_dead());
    is_reported_as_damaged(&place);
}

/// To every program that opens it, with advice; and the ledger stays unchanged.
fn is_reported_as_damaged(place: &Place) {
    let contents = || files(place).map(|file| fs::read(file).ok());
    let before = contents();
    let next = Host::launch(place, &place.ledger(), "");
    let answer = next.answer();
    assert!(answer.starts_with("error ") && answer.contains("damaged"), "{answer}");
    let doctor = place.procledger(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("restore a backup"), "{doctor}");
    assert!(contents() == before, "the ledger was changed");
}
