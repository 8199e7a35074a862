//! What is asked at every spawn, end and pass reads only the living, and a row stays small.

use std::fs;

use super::fixture::*;
use crate::{
    record::{EndReason, Millis},
    state::State,
    store::{admit, instances, orphans, query},
};

/// How SQLite runs a statement, one line a table.
fn plan(f: &Fixture, sql: &str) -> Vec<String> {
    f.store
        .read("test", |c| {
            let mut statement = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let mut rows = statement.raw_query();
            let mut lines = Vec::new();
            while let Some(row) = rows.next()? {
                lines.push(row.get(3)?);
            }
            Ok(lines)
        })
        .expect("planned")
}

#[test]
fn nothing_that_recurs_reads_all_history() {
    let f = Fixture::new();
    for (name, sql, index) in [
        ("live", query::LIVE, "process_live_owner"),
        ("live_of", query::LIVE_OF, "process_live_owner"),
        ("live_of_task", query::LIVE_OF_TASK, "process_live_task"),
        ("descendants_of", query::DESCENDANTS, "process_root"),
        ("kept_below", query::KEPT_BELOW, "process_root"),
        ("admit", admit::ALIVE, "process_live_task"),
        ("claim_orphans", orphans::LIVE_ROWS, "process_live_owner"),
        ("instances_to_judge", instances::TO_JUDGE, "process_live_owner"),
        ("history", query::HISTORY, "process_ended"),
        ("history_of", query::HISTORY_OF, "process_task"),
    ] {
        let lines = plan(&f, sql);
        let scans = lines.iter().filter(|line| line.starts_with("SCAN"));
        for scan in scans {
            let live =
                scan.contains("INDEX process_live") || scan.contains("INDEX instance_running");
            assert!(live || scan.contains("judged"), "{name}: {scan} of {lines:?}");
        }
        assert!(lines.iter().any(|line| line.contains(index)), "{name}: {lines:?}");
    }
}

#[test]
fn to_find_what_names_an_instance_or_a_root_needs_no_scan() {
    let f = Fixture::new();
    for sql in [
        "SELECT 1 FROM process WHERE owner = 1",
        "SELECT 1 FROM process WHERE first_owner = 1",
        "SELECT 1 FROM process WHERE claimed_by = 1",
        "SELECT 1 FROM process WHERE root = 1",
        "SELECT 1 FROM pass WHERE instance = 1",
        "SELECT 1 FROM leak WHERE process = 1",
        "SELECT 1 FROM leak WHERE pass = 1",
    ] {
        let lines = plan(&f, sql);
        assert!(lines.iter().all(|line| line.starts_with("SEARCH")), "{sql}: {lines:?}");
    }
}

/// A year of one run a minute is half a million rows.
#[test]
fn a_row_stays_under_400_bytes_with_its_indexes() {
    const ROWS: i64 = 10_000;
    let f = Fixture::new();
    let size = || {
        f.store.vacuum().expect("emptied the WAL");
        fs::metadata(f.store.path()).expect("there").len()
    };
    let empty = size();
    for start in (0..ROWS).step_by(1_000) {
        let batch: Vec<_> = (start..start + 1_000)
            .map(|n| {
                let mut new = process(f.me, &format!("task-{n:08}"), 100_000 + n);
                new.started_at = Millis(1_736_512_496_789 + n * 1_000);
                new.identity.start_tick = 123_456_789 + n.cast_unsigned();
                new.identity.pidfd_inode = Some(4_000_000 + n.cast_unsigned());
                new
            })
            .collect();
        let ids = f.store.admit(&here(), &batch).expect("committed");
        let ends: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let mut end = end(EndReason::Exited);
                end.at = Millis(1_736_512_999_999 + start * 1_000);
                (id.expect("admitted"), State::Running, end)
            })
            .collect();
        assert!(f.store.end(&ends).expect("committed").into_iter().all(|took| took));
    }
    let bytes = (size() - empty) / ROWS.cast_unsigned();
    println!("{bytes} bytes for each row that has ended, indexes included");
    assert!(bytes < 400, "{bytes} bytes a row");
}
