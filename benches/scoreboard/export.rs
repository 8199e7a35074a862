//! The JSON file after a change, with a thousand processes in it.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    fixture::Fixture,
    former::Former,
    samples::{Samples, in_turns, timed},
    score::{Board, Line},
    sleepers::Sleepers,
    spawns::spawn,
};

const ENTRIES: usize = 1000;
/// The export pauses at most 20 ms after a write.
const REST: Duration = Duration::from_millis(25);

#[derive(Serialize)]
struct Entry {
    task_id: String,
    process_id: u32,
    start_time: String,
}

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(60, 300);
    let sleepers = Sleepers::new(ENTRIES);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("processes.json");
    let fixture = Fixture::with(|builder| builder.monitor(false).export(&file));
    for pid in &sleepers.pids {
        fixture.tracker.register(format!("task-{pid}"), *pid).expect("it is there");
    }
    flush(&fixture);
    let entries: Vec<Entry> = sleepers.pids.iter().map(|&pid| entry(pid)).collect();
    let other = folder.path().join("limit.json");
    let (ours, limit) = in_turns(
        rounds,
        |round| change(&fixture, &file, sleepers.pids[0], round, REST),
        |_| {
            // With caches as cold as ours.
            thread::sleep(REST);
            timed(|| write_atomically(&other, &entries)).0
        },
    );
    let mut following = Samples::default();
    (rounds..2 * rounds).for_each(|round| {
        following.add(change(&fixture, &file, sleepers.pids[0], round, Duration::ZERO));
    });
    let former = Former::tracking(&sleepers.pids);
    let mut former_samples = Samples::default();
    (0..rounds).for_each(|_| former_samples.add(timed(|| former.persist()).0));
    board.add(
        Line::new("export of 1,000 after a change", &ours)
            .beside("serialize, write, rename", limit.median())
            .at_most(1.5)
            .former(former_samples.median()),
    );
    board.add(
        Line::new("export of a change that follows another", &following)
            .beside("serialize, write, rename", limit.median()),
    );
    spawns_do_not_wait(board, &fixture, rounds);
    std::mem::forget(fixture.tracker);
}

fn entry(pid: u32) -> Entry {
    let start_time = chrono::Utc::now().to_rfc3339();
    Entry { task_id: format!("task-{pid}"), process_id: pid, start_time }
}

fn flush(fixture: &Fixture) {
    fixture.tracker.flush_export(Duration::from_secs(10)).expect("written");
}

/// Time from a commit until the file has been replaced. The list has the same length before and
/// after. Changes within the pause after a write are collected; a change after a longer pause is
/// written at once.
fn change(fixture: &Fixture, file: &Path, pid: u32, round: usize, pause: Duration) -> Duration {
    let task = if round == 0 { format!("task-{pid}") } else { format!("again-{}", round - 1) };
    fixture.tracker.unregister(&task).expect("released");
    flush(fixture);
    thread::sleep(pause);
    let before = inode(file);
    fixture.tracker.register(format!("again-{round}"), pid).expect("it is there");
    let start = Instant::now();
    while inode(file) == before {
        assert!(start.elapsed() < Duration::from_secs(5), "no export");
        // Sleeps: a spinning waiter keeps the processor from the thread that it waits for.
        thread::sleep(Duration::from_micros(10));
    }
    let took = start.elapsed();
    flush(fixture);
    took
}

fn inode(file: &Path) -> (u64, i64) {
    let metadata = fs::metadata(file).expect("there");
    (metadata.ino(), metadata.mtime_nsec())
}

fn write_atomically(file: &Path, entries: &[Entry]) {
    let text = serde_json::to_vec_pretty(entries).expect("plain data");
    let folder = file.parent().expect("a folder");
    let mut temp = tempfile::NamedTempFile::new_in(folder).expect("a file");
    temp.write_all(&text).expect("written");
    temp.persist(file).expect("renamed");
}

/// With an export of a thousand entries that is written all the time, and without.
fn spawns_do_not_wait(board: &mut Board, fixture: &Fixture, rounds: usize) {
    let without = Fixture::quiet();
    let (ours, limit) = in_turns(
        rounds,
        |round| {
            let took = spawn(fixture, round);
            flush(fixture);
            took
        },
        |round| spawn(&without, round),
    );
    board.add(
        Line::new("spawn while 1,000 are exported", &ours)
            .beside("the same without an export", limit.median()),
    );
}
