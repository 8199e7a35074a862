//! The queries of every spawn, end and pass read only live rows, and a row stays small.

use std::fs;

use rusqlite::StatementStatus;

use super::fixture::*;
use crate::{
    model::{End, EndReason, Millis, RootEnd, State},
    store::{
        Schema, changes, claim, claim_orphans, descendants, exported, insert, instances, leaks,
        members, metrics, passes, process_queries, prune, settle, transition,
    },
};

/// Returns how SQLite runs a statement, one line per table.
pub(super) fn plan(f: &Fixture, sql: &str) -> Vec<String> {
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
fn no_recurring_query_reads_all_history() {
    let f = Fixture::new();
    for (name, sql, index) in [
        ("live", &*process_queries::LIVE.sql(Schema::latest()), "process_live_owner"),
        ("live_of", &*process_queries::LIVE_OF.sql(Schema::latest()), "process_live_owner"),
        (
            "live_of_task",
            &*process_queries::LIVE_OF_TASK.sql(Schema::latest()),
            "process_live_task",
        ),
        ("live_below", descendants::LIVE_BELOW, "process_root"),
        ("recorded_below", members::RECORDED_BELOW, "process_root"),
        ("changes", changes::OPEN, "process_live_owner"),
        ("settle_alone", settle::HAS_DESCENDANTS, "process_root"),
        ("export_entries", exported::EXPORTED, "process_live_owner"),
        ("kept_below", process_queries::KEPT_BELOW, "process_root"),
        ("insert", insert::ALIVE, "process_live_task"),
        ("claim_orphans", claim_orphans::LIVE_ROWS, "process_live_owner"),
        ("other_claimants", claim::OTHER_CLAIMANTS, "process_live_owner"),
        ("instances_to_check", &*instances::to_judge(Schema::latest()), "process_live_owner"),
        ("figures: live", metrics::LIVE_BY_STATE, "process_live_owner"),
        ("figures: ends", metrics::ENDS_SINCE, "process_ended"),
        ("figures: leaks", metrics::LEAKS_SINCE, "leak_found"),
        ("figures: passes", metrics::PASSES_SINCE, "pass_kind"),
        ("history", &*process_queries::HISTORY.sql(Schema::latest()), "process_ended"),
        ("history_of", &*process_queries::HISTORY_OF.sql(Schema::latest()), "process_task"),
        ("prune processes", prune::PROCESSES, "process_ended"),
        ("prune passes", prune::PASSES, "pass_kind"),
    ] {
        let lines = plan(&f, sql);
        // The constant row is that of `SELECT EXISTS`.
        let of_a_table = |line: &&String| line.starts_with("SCAN") && *line != "SCAN CONSTANT ROW";
        for scan in lines.iter().filter(of_a_table) {
            let live =
                scan.contains("INDEX process_live") || scan.contains("INDEX instance_running");
            assert!(live || scan.contains("judged"), "{name}: {scan} of {lines:?}");
        }
        assert!(lines.iter().any(|line| line.contains(index)), "{name}: {lines:?}");
    }
}

#[test]
fn given_rows_are_read_by_their_numbers() {
    let f = Fixture::new();
    let lines = plan(&f, transition::LIVE_AMONG);
    assert!(lines[0].contains("VIRTUAL TABLE"), "{lines:?}");
    assert_eq!(lines[1..], ["SEARCH p USING INTEGER PRIMARY KEY (rowid=?)"]);
}

#[test]
fn rows_of_others_are_found_without_reading_those_of_the_instance_itself() {
    let f = Fixture::new();
    let lines = plan(&f, &process_queries::LIVE_OF_OTHERS.sql(Schema::latest()));
    assert_eq!(lines[0], "SEARCH p USING INTEGER PRIMARY KEY (rowid=?)");
    for range in ["owner<?", "owner>?"] {
        let search = format!("SEARCH process USING INDEX process_live_owner ({range})");
        assert!(lines.contains(&search), "{lines:?}");
    }
}

/// A window of 30 days costs only its own rows, however many years of history precede it.
#[test]
fn a_report_reads_only_its_window() {
    let f = Fixture::new();
    for (name, sql, index) in [
        ("leaks", &*leaks::newest(Schema::latest()), "leak_found (found_at>?)"),
        ("by hour", leaks::BY_HOUR, "leak_found (found_at>?)"),
        ("by day", leaks::BY_DAY, "leak_found (found_at>?)"),
        ("by task", leaks::BY_TASK, "leak_found (found_at>?)"),
        ("by rule", leaks::BY_RULE, "leak_found (found_at>?)"),
        ("by program", leaks::BY_PROGRAM, "leak_found (found_at>?)"),
        ("passes", passes::SUMMARIES, "pass_kind (kind=? AND started_at>?)"),
    ] {
        let lines = plan(&f, sql);
        assert!(lines.iter().any(|line| line.contains(index)), "{name}: {lines:?}");
        // Only the results of the search are scanned.
        let scans = lines.iter().filter(|line| line.starts_with("SCAN"));
        for scan in scans {
            assert!(scan.contains("subquery"), "{name}: {scan} of {lines:?}");
        }
    }
}

#[test]
fn finding_claims_of_and_references_to_a_row_needs_no_scan() {
    let f = Fixture::new();
    for sql in [
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

/// Typical queries of the views. `*` marks a query that may read a whole table of history; none
/// reads `process` that way.
#[test]
fn the_views_find_what_people_ask_for_by_an_index() {
    let f = Fixture::new();
    for (query, index) in [
        ("running", "process_live_owner"),
        ("running WHERE task_id = 'a'", "process_live_task"),
        ("running ORDER BY peak_mib DESC LIMIT 5", "process_live_owner"),
        ("running WHERE owner = 'api'", "process_live"),
        ("survivors", "process_live_owner"),
        ("survivors WHERE task_id = 'a'", "process_live_task"),
        ("history LIMIT 20", "process_ended"),
        ("history WHERE task_id = 'a'", "process_task"),
        ("history WHERE task_id = 'a' LIMIT 20", "process_task"),
        ("history WHERE ended_at >= 1767225600000", "process_ended"),
        ("history WHERE ended_at >= strftime('%s', 'now', '-30 days') * 1000", "process_ended"),
        ("history WHERE process = 7", "INTEGER PRIMARY KEY"),
        ("leaks LIMIT 20", "leak_found"),
        ("leaks WHERE found_at >= strftime('%s', 'now', '-30 days') * 1000", "leak_found"),
        ("leaks WHERE task_id = 'a'", "process_task"),
        ("leaks WHERE process = 7", "leak_process"),
        ("leaks_by_day", "leak_day"),
        ("leaks_by_day LIMIT 7", "leak_day"),
        ("leaks_by_day WHERE day = '2026-01-01'", "leak_day"),
        ("leaks_by_day WHERE day >= date('now', '-30 days')", "leak_day"),
        ("leaks_by_task WHERE task_id = 'a'", "process_task"),
        ("passes LIMIT 20", "pass_started"),
        ("passes WHERE started_at >= 1767225600000", "pass_started"),
        ("passes WHERE kind = 'orphan' LIMIT 1", "pass_kind"),
    ] {
        let lines = plan(&f, &format!("SELECT * FROM {query}"));
        assert!(lines.iter().any(|line| line.contains(index)), "{query}: {lines:?}");
        assert!(!reads_all_processes(&lines), "{query}: {lines:?}");
    }
}

#[test]
fn the_sums_over_all_leaks_do_not_read_the_processes_that_did_not_leak() {
    let f = Fixture::new();
    for query in ["leaks", "leaks WHERE kind = 'stray'", "leaks_by_task", "leaks_by_task LIMIT 10"]
    {
        let lines = plan(&f, &format!("SELECT * FROM {query}"));
        assert!(!reads_all_processes(&lines), "{query}: {lines:?}");
        assert!(
            lines.iter().any(|line| line.starts_with("SEARCH p USING INTEGER PRIMARY KEY")),
            "{query}: {lines:?}"
        );
    }
}

/// Reports a scan of `process` that does not use the index of live rows. The views call the table
/// `p`, or by its own name.
fn reads_all_processes(lines: &[String]) -> bool {
    lines.iter().any(|line| {
        ["SCAN p", "SCAN p USING", "SCAN process"].iter().any(|scan| {
            line.strip_prefix(scan).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        }) && !line.contains("INDEX process_live")
    })
}

/// Measured in steps of SQLite's virtual machine, since other load distorts times.
#[test]
fn recurring_queries_take_as_many_steps_with_a_long_history_as_with_none() {
    let f = Fixture::new();
    for pid in 1..=5 {
        f.row(f.me, pid, State::Running);
    }
    let queries = [
        &*process_queries::LIVE.sql(Schema::latest()),
        &*process_queries::LIVE_OF.sql(Schema::latest()),
        &*process_queries::LIVE_OF_TASK.sql(Schema::latest()),
        insert::ALIVE,
        claim_orphans::LIVE_ROWS,
        &*instances::to_judge(Schema::latest()),
        "SELECT * FROM running",
        "SELECT * FROM running WHERE task_id = 'task-1'",
        "SELECT * FROM survivors",
        "SELECT * FROM history LIMIT 5",
        "SELECT * FROM passes LIMIT 5",
    ];
    let steps = || queries.map(|sql| (sql, steps(&f, sql)));
    for pid in 10..20 {
        f.row(f.me, pid, State::Ended);
    }
    let short = steps();
    // History of one task that is also running, and of many others.
    f.sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO process (task_id, owner, first_owner, origin, pid, start_tick, containment, command, uid,
           state, started_at, ended_at, end_reason, grace_ms)
         SELECT CASE WHEN i % 2 THEN 'task-1' ELSE 'old-' || i END, ?1, ?1, 'spawned', i, i, 'none', '[]', 0,
           'ended', i, i, 'exited', 100 FROM n",
        [f.me.0],
    );
    assert_eq!(steps(), short);
}

fn steps(f: &Fixture, sql: &str) -> i32 {
    f.store
        .read("test", |c| {
            let mut statement = c.prepare(sql)?;
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, "task-1")?;
            }
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            drop(rows);
            Ok(statement.get_status(StatementStatus::VmStep))
        })
        .expect("runs")
}

/// Plans must not depend on whether `ANALYZE` was run, so the sizes are fixed, and each index needs
/// one.
#[test]
fn every_index_has_a_fixed_size() {
    let f = Fixture::new();
    let missing = f.store.read("test", |c| {
        c.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL
             AND name NOT IN (SELECT idx FROM sqlite_stat1)
             UNION ALL
             SELECT idx FROM sqlite_stat1 WHERE idx NOT IN (SELECT name FROM sqlite_schema)",
        )?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()
    });
    assert_eq!(missing.expect("read"), [""; 0]);
}

/// A year of one run a minute is half a million rows.
#[test]
fn a_row_stays_under_400_bytes_with_its_indexes() {
    const ROWS: i64 = 10_000;
    let f = Fixture::new();
    let size = || {
        f.vacuum();
        fs::metadata(f.store.path()).expect("there").len()
    };
    let empty = size();
    for start in (0..ROWS).step_by(1_000) {
        let batch: Vec<_> = (start..start + 1_000)
            .map(|n| {
                let mut new = process(f.me, &format!("task-{n:08}"), 100_000 + n);
                new.spec.started_at = Millis(1_736_512_496_789 + n * 1_000).into();
                new.spec.identity.start_tick = 123_456_789 + n.cast_unsigned();
                new.spec.identity.pidfd_inode = Some(4_000_000 + n.cast_unsigned());
                new
            })
            .collect();
        let all = f.insert_all(batch).expect("committed");
        let ends: Vec<_> = all
            .into_iter()
            .map(|inserted| {
                let at = Millis(1_736_512_999_999 + start * 1_000);
                RootEnd {
                    process: inserted.row.expect("inserted"),
                    end: End { at: at.into(), ..end(EndReason::Exited) },
                    strays: Vec::new(),
                    kept: Vec::new(),
                }
            })
            .collect();
        assert_eq!(f.store.settle_alone(f.me, &ends).expect("committed").len(), ends.len());
    }
    let bytes = (size() - empty) / ROWS.cast_unsigned();
    println!("{bytes} bytes for each row that has ended, indexes included");
    assert!(bytes < 400, "{bytes} bytes a row");
}
