//! The machine's clock is set: an hour back, then a day forward. Simulated for a host by
//! libfaketime; boot time continues unchanged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Host, Place, need, skipped, until};

/// Debian's library, under the name of the architecture.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

/// A host whose clock differs from ours by the offset in the file.
fn host(place: &Place, clock: &Path, options: &str) -> Option<Host> {
    let Some(library) = library() else {
        skipped("no libfaketime");
        return None;
    };
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock);
    command.env("FAKETIME_NO_CACHE", "1").env("NO_FAKE_STAT", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    let host = Host::launch_by(command, place, &place.ledger(), options);
    assert_eq!(host.answer(), "open 0");
    Some(host)
}

/// Two complete passes since.
fn passes_go_on(place: &Place) {
    let count = || place.sqlite3("SELECT count(*) FROM pass").parse::<u32>().expect("a number");
    let before = count();
    until("passes go on", || count() >= before + 2);
}

#[test]
fn a_clock_change_ends_no_process_and_yields_no_negative_duration() {
    need!("faketime");
    let place = Place::new();
    let clock = place.path().join("clock");
    let set = |offset: &str| fs::write(&clock, offset).expect("set");
    set("+0");
    // History that ended more than an hour ago is pruned; an hour is also how long a task may run.
    let Some(mut host) = host(&place, &clock, "interval=100 keep-history=3600000") else { return };
    let limited = host.spawn_as("hour", "limited", "exec sleep 3600");
    let plain = host.spawn("plain", "sleep 3600 & wait");
    let before = host.spawn("before", "exec sleep 3600");
    passes_go_on(&place);

    set("-3600");
    passes_go_on(&place);
    host.ask("spawn behind exit 3");
    assert_eq!(host.ask("wait behind"), "exit code 3");
    assert_eq!(host.ask("terminate before"), "1");
    assert!(before.is_dead());
    let ended = "SELECT count(*) FROM process WHERE state = 'ended'";
    until("both ends are recorded", || place.sqlite3(ended) == "2");
    let jumped = "SELECT started_at - (SELECT started_at FROM process WHERE task_id = 'plain')
        < -3000000 FROM process WHERE task_id = 'behind'";
    assert_eq!(place.sqlite3(jumped), "1", "the host's clock was not set");
    let negative = "SELECT count(*) FROM process WHERE ended_at < started_at";
    assert_eq!(place.sqlite3(negative), "0");
    assert_eq!(place.sqlite3("SELECT count(*) FROM history WHERE lasted LIKE '%-%'"), "0");
    let leaks = "SELECT count(*) FROM leak WHERE age_ms < 0 OR died_after_ms < 0";
    assert_eq!(place.sqlite3(leaks), "0");

    set("+86400");
    passes_go_on(&place);
    assert!(!limited.is_dead(), "it has not run for an hour");
    assert!(!plain.is_dead());
    let live = "SELECT task_id FROM running WHERE NOT descendant ORDER BY task_id";
    assert_eq!(place.sqlite3(live), "limited\nplain");
    assert_eq!(host.ask("running"), "2");
    host.crash();
    // The next opener has the right time, and identifies them by their ticks.
    let next = Host::start(&place, "");
    assert!(limited.is_dead() && plain.is_dead());
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    assert_eq!(place.sqlite3(negative), "0");
    assert_eq!(place.sqlite3(leaks), "0");
    next.stop();
}
