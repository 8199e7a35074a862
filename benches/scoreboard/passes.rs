//! Health pass and orphan scan over ten thousand processes.

use std::{fmt::Write, hint::black_box, os::fd::OwnedFd, time::Duration};

use rustix::fs::{Mode, OFlags, RawDir, openat};

use super::{
    bare,
    fixture::Fixture,
    former::{self, Former},
    namespace::raise_descriptors,
    samples::{Samples, in_turns, timed},
    score::{Board, Line},
    sleepers::Sleepers,
};

pub(crate) const PROCESSES: usize = 10_000;
/// The former implementation starts a program for each process at each check, so only this many are
/// measured.
const FORMER_CHECKS: usize = 300;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let rounds = board.scale().pick(5, 15);
    let sleepers = Sleepers::new(PROCESSES);
    orphans(board, &sleepers, rounds);
    let fixture = tracked(&sleepers);
    health(board, &fixture, &sleepers, rounds);
    // Its processes are the sleepers.
    std::mem::forget(fixture.tracker);
}

/// A tracker that has registered all sleepers.
pub(crate) fn tracked(sleepers: &Sleepers) -> Fixture {
    let fixture = Fixture::quiet();
    for pid in &sleepers.pids {
        fixture.tracker.register(format!("sleepers-{pid}"), *pid).expect("it is there");
    }
    fixture
}

fn health(board: &mut Board, fixture: &Fixture, sleepers: &Sleepers, rounds: usize) {
    let reader = bare::open(&fixture.path());
    count_changes(&reader);
    health_pass(fixture);
    let before = changes(&reader);
    let (mut ours, mut limit) = (Samples::default(), Samples::default());
    let mut stats = Samples::default();
    for _ in 0..rounds {
        ours.add(health_pass(fixture));
        let (read, taken) = timed(|| read_stats(&sleepers.pids));
        stats.add(read);
        assert_eq!(taken, PROCESSES);
        let (rows, count) = timed(|| bare::read_running(&reader));
        assert_eq!(count, PROCESSES);
        // One and a half times the reads, plus the rows.
        limit.add(read.mul_f64(1.5) + rows);
    }
    let written = changes(&reader) - before;
    let mut registry = Former::tracking(&sleepers.pids);
    let former_samples = timed(|| registry.check(FORMER_CHECKS)).0;
    let former_samples = former_samples.as_nanos() as f64 * (PROCESSES / FORMER_CHECKS) as f64;
    board.add(
        Line::new("health pass over 10,000 processes", &ours)
            .beside("1.5 × reading each stat + the rows", limit.median())
            .at_most(1.0)
            .and(format!("rows rewritten: {written} of 0"), written == 0)
            .former_scaled(former_samples, format!("{FORMER_CHECKS} of 10,000 `kill -0` measured")),
    );
    board.add(
        Line::new("health pass, beside the reads alone", &ours)
            .beside("reading each stat", stats.median()),
    );
}

pub(crate) fn health_pass(fixture: &Fixture) -> Duration {
    let (took, report) = timed(|| fixture.tracker.health_pass().expect("a pass"));
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    took
}

/// Rows written since the ledger was created, as counted by two triggers.
fn changes(reader: &rusqlite::Connection) -> i64 {
    reader.query_one("SELECT count(*) FROM written", [], |row| row.get(0)).expect("an answer")
}

/// Makes the ledger count the writes to its process table.
fn count_changes(reader: &rusqlite::Connection) {
    reader
        .execute_batch(
            "CREATE TABLE written (process);
             CREATE TRIGGER count_inserts AFTER INSERT ON process BEGIN INSERT INTO written VALUES (new.id); END;
             CREATE TRIGGER count_updates AFTER UPDATE ON process BEGIN INSERT INTO written VALUES (new.id); END;",
        )
        .expect("a table");
}

/// The limit: `/proc/PID/stat` of each process, through one descriptor on `/proc` and into one
/// buffer.
pub(crate) fn read_stats(pids: &[u32]) -> usize {
    let proc = open_proc();
    let (mut path, mut buffer) = (String::new(), [0_u8; 4096]);
    let mut read = 0;
    for pid in pids {
        path.clear();
        let _ = write!(path, "{pid}/stat");
        read += usize::from(read_file(&proc, &path, &mut buffer));
    }
    read
}

fn open_proc() -> OwnedFd {
    rustix::fs::open("/proc", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("/proc")
}

fn read_file(proc: &OwnedFd, path: &str, buffer: &mut [u8]) -> bool {
    let Ok(file) = openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    black_box(rustix::io::read(&file, &mut *buffer).expect("read"));
    true
}

/// The limit: list `/proc` and read each `cmdline` into one buffer.
pub(crate) fn scan_command_lines() -> usize {
    let proc = open_proc();
    let mut space = Vec::with_capacity(64 << 10);
    let (mut path, mut buffer) = (String::new(), [0_u8; 4096]);
    let mut entries = RawDir::new(&proc, space.spare_capacity_mut());
    let mut read = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_bytes();
        if name.first().is_some_and(u8::is_ascii_digit) {
            path.clear();
            path.push_str(std::str::from_utf8(name).expect("digits"));
            path.push_str("/cmdline");
            read += usize::from(read_file(&proc, &path, &mut buffer));
        }
    }
    read
}

fn orphans(board: &mut Board, _sleepers: &Sleepers, rounds: usize) {
    let fixture = Fixture::with(|builder| {
        builder.monitor(false).orphan_name("resource-claude-code").min_age(Duration::ZERO)
    });
    orphan_scan(&fixture);
    let (ours, limit) = in_turns(
        rounds,
        |_| orphan_scan(&fixture),
        |_| {
            let (took, read) = timed(scan_command_lines);
            assert!(read >= PROCESSES);
            took
        },
    );
    let mut pgrep = Samples::default();
    for _ in 0..board.scale().pick(2, 4) {
        pgrep.add(timed(|| former::find_orphans("resource-claude-code")).0);
    }
    let quarter = ours.median() <= pgrep.median() / 4.0;
    board.add(
        Line::new("orphan scan of 10,000 processes", &ours)
            .beside("getdents + each cmdline", limit.median())
            .at_most(1.3)
            .and("≤ ¼ of `pgrep -f`", quarter)
            .former(pgrep.median()),
    );
}

pub(crate) fn orphan_scan(fixture: &Fixture) -> Duration {
    let (took, report) = timed(|| fixture.tracker.reap_orphans().expect("a pass"));
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    took
}
