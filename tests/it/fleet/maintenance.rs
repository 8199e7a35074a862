//! `fleet maintain` while other commands work on the fleet.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{fleet, printed, scene::scene};
use crate::support::{Guard, need, until};

/// History is old by the clock of the database: that of the machine which cleans up may be wrong.
#[test]
fn a_clock_that_is_years_ahead_deletes_no_history() {
    need!("faketime");
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let rows = || {
        let counts = ["fleet.ended", "fleet.leak", "fleet.leak_day", "pg_catalog.pg_inherits"];
        counts.map(|table| scene.database.rows(&format!("SELECT count(*) FROM {table}")))
    };
    let before = rows();
    let mut ahead = Command::new("faketime");
    ahead.args(["+5 years", env!("CARGO_BIN_EXE_procledger"), "fleet", "maintain", "--to"]);
    ahead.arg(scene.database.url());
    let done = printed(ahead);
    assert!(done.contains("dropped: 0; rows deleted: 0;"), "{done}");
    assert_eq!(rows(), before);
}

/// Both recompute the sums of a day: the later one waits.
#[test]
fn sums_are_recomputed_while_a_shipper_updates_them() {
    let Some(scene) = scene() else { return };
    scene.ledger.leak(1);
    scene.ship();
    let mut shipper = scene.database.client();
    let mut shipment = shipper.transaction().expect("begun");
    let sums = "UPDATE fleet.stream SET seen_at = now();
         CREATE TEMPORARY TABLE sums ON COMMIT DROP AS SELECT * FROM fleet.leak_day;
         DELETE FROM fleet.leak_day; INSERT INTO fleet.leak_day SELECT * FROM sums";
    shipment.batch_execute(sums).expect("done");
    let mut maintain = fleet(&["maintain", "--to", &scene.database.url()]);
    let maintain = maintain.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut maintain = Guard(maintain.spawn().expect("it starts"));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        scene.database.name()
    );
    until("it waits", || scene.database.rows(&waiting) == "1" || !maintain.is_running());
    // A shipper that hangs holds its stream for longer than a partition is waited for.
    std::thread::sleep(Duration::from_secs(6));
    shipment.commit().expect("committed");
    let status = maintain.0.wait().expect("it ends");
    let mut error = String::new();
    let stderr = maintain.0.stderr.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stderr, &mut error).expect("text");
    assert!(status.success(), "{error}");
    assert_eq!(scene.database.rows("SELECT sum(leaks) FROM fleet.leak_day"), "1");
}

/// A report of many tasks reads them in the order of their index. Just recomputed, each sum would
/// have to be looked up in its table as well.
#[test]
fn tasks_are_read_from_their_index_alone_after_maintenance() {
    let Some(scene) = scene() else { return };
    let sums = "INSERT INTO fleet.leak_top (stream, day, dimension, rest, key, leaks, orphans, strays, unregistered, survived, age_ms,
          rss_bytes, last_found_at)
        SELECT 1, current_date - 1 - n % 5, 'task', false, 'task-' || n, 1, 1, 0, 0, 0, 1, 1, now() - interval '1 day'
        FROM generate_series(1, 20000) AS n";
    scene.database.client().batch_execute(sums).expect("inserted");
    printed(fleet(&["maintain", "--to", &scene.database.url()]));
    let report = ["report", "--by", "task", "--json", "--from", &scene.database.url()];
    let report: serde_json::Value = serde_json::from_str(&printed(fleet(&report))).expect("JSON");
    assert_eq!(report["groups"].as_array().map(Vec::len), Some(1001), "the largest, and the rest");
    let used = "SELECT i.idx_scan, t.idx_tup_fetch FROM pg_stat_user_indexes AS i JOIN pg_stat_user_tables AS t ON t.relid = i.relid
        WHERE i.indexrelname = 'leak_top_task'";
    // A session counts what it has read when it ends.
    until("the index is used", || scene.database.rows(used).starts_with("1|"));
    assert_eq!(scene.database.rows(used), "1|0", "no row was looked up");
}

/// Many hosts add one row after the other, and PostgreSQL splits each full page of the key in the
/// middle.
#[test]
fn half_empty_indexes_are_rebuilt_while_a_shipper_runs() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let rows = "INSERT INTO fleet.leak (stream, id, print, process, root, verified, pid, kind, rule, rule_key, evidence, evidence_key,
          found_at, age_ms, outcome, program, command)
        SELECT 100 + n % 200, n, n, 1, 1, true, 1, 'orphan', 'r', 'r', 'e', 'e', now() - interval '5 days' + n * interval '1 second', 1,
          'term', 'p', '[]' FROM generate_series(1, 120000) AS n;
        INSERT INTO fleet.ended (stream, id, print, pid, origin, containment, program, command, started_at, ended_at, end_reason)
        SELECT 100 + n % 200, n, n, 1, 'spawned', 'none', 'p', '[]', it.at, it.at, 'exited' FROM generate_series(1, 120000) AS n,
          LATERAL (SELECT date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '14 days' + n * interval '1 second') AS it (at);
        ANALYZE fleet.leak; ANALYZE fleet.ended";
    let keep = ["init", "--to", &scene.database.url(), "--keep", "60days"];
    printed(fleet(&keep));
    let maintain = || printed(fleet(&["maintain", "--to", &scene.database.url()]));
    assert!(maintain().ends_with("; keys rebuilt: 0\n"));
    scene.database.client().batch_execute(rows).expect("inserted");
    let size = "SELECT pg_relation_size('fleet.leak_pkey') / 120000";
    let before: u32 = scene.database.rows(size).parse().expect("a number");
    // As a run that was interrupted has left it.
    let interrupted = "CREATE INDEX later_ccnew ON fleet.leak (pid);
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'fleet.later_ccnew'::regclass";
    scene.database.client().batch_execute(interrupted).expect("made");
    // A batch that is being written is waited for, and waits for nothing.
    let mut shipper = scene.database.client();
    let mut shipment = shipper.transaction().expect("begun");
    shipment.batch_execute("UPDATE fleet.leak SET died_after_ms = 1 WHERE id = 1").expect("done");
    let mut maintaining = fleet(&["maintain", "--to", &scene.database.url()]);
    let mut maintaining = Guard(maintaining.stdout(Stdio::null()).spawn().expect("it starts"));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock' AND query LIKE '%CONCURRENTLY%'",
        scene.database.name()
    );
    until("it waits", || scene.database.rows(&waiting) == "1" || !maintaining.is_running());
    scene.ledger.work();
    scene.ship();
    shipment.commit().expect("committed");
    assert!(maintaining.0.wait().expect("it ends").success());
    let after: u32 = scene.database.rows(size).parse().expect("a number");
    assert!(before > 70 && after < 55, "{before} {after}");
    assert_eq!(scene.database.rows("SELECT to_regclass('fleet.later_ccnew') IS NULL"), "t");
    assert!(maintain().ends_with("; keys rebuilt: 0\n"));
    scene.check();
}
