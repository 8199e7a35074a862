//! A ledger with a long history, created in seconds by writing straight into its tables; no program
//! could produce it that fast.

use std::path::Path;

use procledger::Tracker;
use rusqlite::{Connection, params};

/// How much history there is, and how far it reaches back from now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    pub(crate) processes: i64,
    pub(crate) leaks: i64,
    pub(crate) passes: i64,
    pub(crate) tasks: i64,
    /// Hosts that ran one after another.
    pub(crate) instances: i64,
    pub(crate) days: i64,
}

/// Creates a ledger at `path` and fills it with this history. No other connection may have it open.
pub(crate) fn make(path: &Path, past: Past) -> rusqlite::Result<()> {
    Tracker::builder(path)
        .monitor(false)
        .open()
        .and_then(|tracker| tracker.shutdown())
        .expect("a new ledger");
    let mut ledger = Connection::open(path)?;
    // A power cut can only destroy a ledger that can be created again.
    ledger.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -400000")?;
    // Maintained row by row, the indexes would take longer than everything else; built at the end
    // they take seconds.
    let indexes = indexes(&ledger)?;
    for (name, _) in &indexes {
        ledger.execute_batch(&format!("DROP INDEX {name}"))?;
    }
    let tx = ledger.transaction()?;
    let now = chrono::Utc::now().timestamp_millis();
    let span = past.days * 86_400_000;
    // The first instance is the one that created the ledger; the historic ones get the numbers
    // after it.
    tx.execute(INSTANCES, params![past.instances, now, span])?;
    tx.execute(PROCESSES, params![past.processes, now, span, past.tasks, past.instances])?;
    tx.execute(PASSES, params![past.passes, now, span, past.instances])?;
    tx.execute(LEAKS, params![past.processes / past.leaks])?;
    for (_, definition) in &indexes {
        tx.execute_batch(definition)?;
    }
    tx.commit()
}

/// Each index with its definition.
fn indexes(ledger: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    ledger
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

const INSTANCES: &str = "
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
    INSERT INTO instance (id, program, version, boot_id, pid_namespace, boottime_offset, pid, start_tick, uid,
      lock_name, ledger_device, ledger_inode, started_at, stopped_at, stopped_how)
    SELECT 1000 + i, 'api', '0.1.0', '00000000000000000000000000000000', 1, 0, 1000 + i, i, 0,
      'past-' || i, 0, 0, ?2 - ?3 + ?3 * i / ?1, ?2 - ?3 + ?3 * (i + 1) / ?1, 'crashed'
    FROM n";

/// Every twentieth run of a task leaks, and some fail.
const PROCESSES: &str = "
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
    INSERT INTO process (id, task_id, owner, first_owner, origin, token, pid, start_tick, pidfd_inode, session,
      containment, command, cwd, uid, state, started_at, ended_at, exit_code, end_reason, grace_ms,
      peak_rss_bytes, cpu_ms)
    SELECT 1000 + i, 'task-' || (i * 7919 % ?4), 1000 + i * ?5 / ?1, 1000 + i * ?5 / ?1, 'spawned',
      printf('%032x', i), 1000 + i % 30000, i * 3, 100000 + i, 1000 + i % 30000, 'session',
      '[\"resource-claude-code\",\"run\",\"--tag\",\"task-' || (i * 7919 % ?4) || '\"]', '/srv/api', 0, 'ended',
      started, min(started + 1000 + i * 7717 % 600000, ?2),
      CASE WHEN i % 20 = 0 THEN NULL ELSE i % 13 = 0 END,
      CASE WHEN i % 20 = 0 THEN 'orphan' ELSE 'exited' END, 100, 1000000 * (10 + i % 500), i % 60000
    FROM (SELECT i, ?2 - ?3 + ?3 * i / ?1 AS started FROM n)";

const PASSES: &str = "
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
    INSERT INTO pass (id, instance, kind, started_at, duration_us, checked, found, ended, survived, unknown)
    SELECT 1000 + i, 1000 + i * ?4 / ?1, CASE i % 100 WHEN 0 THEN 'orphan' ELSE 'health' END,
      ?2 - ?3 + ?3 * i / ?1, 900 + i % 200, 20, 0, 0, 0, 0
    FROM n";

const LEAKS: &str = "
    INSERT INTO leak (process, kind, rule, rule_key, evidence, evidence_key,
      found_at, age_ms, rss_bytes, outcome, died_after_ms)
    SELECT id, CASE id % 60 WHEN 0 THEN 'stray' ELSE 'orphan' END,
      CASE id % 60 WHEN 0 THEN 'its root had ended' ELSE 'its instance is dead' END,
      CASE id % 60 WHEN 0 THEN 'root_ended' ELSE 'instance_dead' END,
      CASE id % 3 WHEN 0 THEN 'session' ELSE 'identity' END, CASE id % 3 WHEN 0 THEN 'session' ELSE 'identity' END,
      ended_at, ended_at - started_at, peak_rss_bytes, CASE id % 7 WHEN 0 THEN 'kill' ELSE 'term' END, 12
    FROM process WHERE id >= 1000 AND (id - 1000) % ?1 = 0";
