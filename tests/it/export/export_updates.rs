//! The JSON export is updated with the ledger.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use procledger::Tracker;

use crate::support::{Host, Place, alone, until};

/// The bound of invariant 9; the best of several tries counts, since the machine has other load.
const FOLLOWS: Duration = Duration::from_millis(50);

/// Task and pid of each entry; panics at anything that is not a complete file.
fn read(path: &Path) -> Option<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).ok()?;
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a whole file");
    let pair = |entry: &serde_json::Value| {
        let time = entry["start_time"].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(time).expect("RFC 3339");
        (
            entry["task_id"].as_str().expect("a task").to_owned(),
            entry["process_id"].as_u64().expect("a pid"),
        )
    };
    Some(entries.iter().map(pair).collect())
}

#[test]
fn invariant_09_the_export_lists_exactly_the_running_tasks_and_is_never_read_incomplete() {
    let _alone = alone();
    let place = Place::new();
    let export = place.path().join("running.json");
    let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    until("it is there", || read(&export).is_some_and(|tasks| tasks.is_empty()));
    assert_eq!(fs::read_to_string(&export).expect("text").trim(), "[]");
    let done = AtomicBool::new(false);
    let (mut added, mut removed) = (Duration::MAX, Duration::MAX);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                read(&export).expect("it is never missing either");
            }
        });
        let mut expected = BTreeMap::new();
        for number in 0..8 {
            let task = format!("task-{number}");
            let process = tracker.spawn(place.job(&task, "exec sleep 3600")).expect("spawned");
            expected.insert(task, u64::from(process.pid().get()));
            let committed = Instant::now();
            until("it is added", || read(&export).as_ref() == Some(&expected));
            added = added.min(committed.elapsed());
        }
        while let Some((task, _)) = expected.pop_first() {
            tracker.terminate(&task).expect("ended");
            let committed = Instant::now();
            until("it is removed", || read(&export).as_ref() == Some(&expected));
            removed = removed.min(committed.elapsed());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(added < FOLLOWS && removed < FOLLOWS, "{added:?}, {removed:?}");
    let mode = fs::metadata(&export).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    tracker.shutdown().expect("shut down");
    assert!(!export.exists(), "a clean stop removes it");
}

#[test]
fn the_export_survives_a_crash_and_is_corrected_by_the_next_start() {
    let place = Place::new();
    let export = place.path().join("running.json");
    let options = format!("export={}", export.display());
    let mut host = Host::start(&place, &options);
    let task = host.spawn("task", "exec sleep 3600");
    let entry = BTreeMap::from([("task".to_owned(), u64::from(task.pid()))]);
    until("it is written", || read(&export).as_ref() == Some(&entry));
    host.crash();
    assert_eq!(read(&export), Some(entry));
    let next = Host::start(&place, &options);
    assert!(task.is_dead());
    until("it is corrected", || read(&export).is_some_and(|tasks| tasks.is_empty()));
    next.stop();
    assert!(!export.exists());
}

#[test]
fn a_second_instance_does_not_write_the_export_of_the_first() {
    let place = Place::new();
    let export = place.path().join("running.json");
    let options = format!("export={}", export.display());
    let mut first = Host::start(&place, &options);
    let task = first.spawn("task", "exec sleep 3600");
    let entry = BTreeMap::from([("task".to_owned(), u64::from(task.pid()))]);
    until("it is written", || read(&export).as_ref() == Some(&entry));
    let second = Host::start(&place, &options);
    second.stop();
    assert_eq!(read(&export), Some(entry), "nor does its clean stop remove it");
    first.stop();
    assert!(!export.exists());
}

#[test]
fn a_symlink_at_the_exports_path_is_replaced_and_not_followed() {
    let place = Place::new();
    let (export, target) = (place.path().join("running.json"), place.path().join("precious"));
    fs::write(&target, "precious").expect("a file");
    std::os::unix::fs::symlink(&target, &export).expect("a link");
    let host = Host::start(&place, &format!("export={}", export.display()));
    until("it is written", || {
        fs::symlink_metadata(&export).is_ok_and(|found| found.is_file()) && read(&export).is_some()
    });
    host.stop();
    assert_eq!(fs::read_to_string(&target).expect("text"), "precious");
}
