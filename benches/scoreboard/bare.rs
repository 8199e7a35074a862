//! The limit of a write: one cached statement in its own transaction, on the same tables, with the
//! same pragmas.

use std::{path::Path, time::Duration};

use procledger::Tracker;
use rusqlite::{Connection, TransactionBehavior, params};

use super::samples::timed;

/// A ledger of its own, written without any code of this crate.
pub(crate) struct Bare {
    connection: Connection,
    owner: i64,
}

impl Bare {
    pub(crate) fn at(path: &Path) -> Self {
        let tracker = Tracker::builder(path).monitor(false).open().expect("a ledger");
        tracker.shutdown().expect("an orderly end");
        let connection = open(path);
        let owner = connection
            .query_one("SELECT max(id) FROM instance", [], |row| row.get(0))
            .expect("an instance");
        Self { connection, owner }
    }

    /// Inserts a row, like `register`.
    pub(crate) fn insert(&mut self, task: &str, pid: u32) -> (Duration, i64) {
        let owner = self.owner;
        timed(|| {
            let tx = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .expect("begun");
            tx.prepare_cached(
                "INSERT INTO process (task_id, owner, first_owner, origin, pid, start_tick, pidfd_inode, containment,
                   command, uid, state, started_at, grace_ms)
                 VALUES (?1, ?2, ?2, 'registered', ?3, 123456, 654321, 'none', '[\"resource-claude-code\",\"run\"]', 0,
                   'running', 1700000000000, 100)",
            )
            .and_then(|mut insert| insert.execute(params![task, owner, pid]))
            .expect("a row");
            let row = tx.last_insert_rowid();
            tx.commit().expect("committed");
            row
        })
    }

    /// Records the end of a row, like `wait`.
    pub(crate) fn end(&mut self, row: i64) -> Duration {
        let ended = timed(|| {
            let tx = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .expect("begun");
            let changed = tx
                .prepare_cached(
                    "UPDATE process SET state = 'ended', ended_at = 1700000001000, end_reason = 'exited', exit_code = 0
                     WHERE id = ?1 AND state = 'running'",
                )
                .and_then(|mut update| update.execute([row]))
                .expect("a row");
            tx.commit().expect("committed");
            changed
        });
        assert_eq!(ended.1, 1, "row {row} was running");
        ended.0
    }
}

impl Bare {
    /// Claims all rows at once, as when many trees are ended together.
    pub(crate) fn claim_all(&self) {
        let owner = self.owner;
        let claim = "UPDATE process SET state = 'ending', claimed_by = ?1 WHERE state = 'running'";
        self.connection.execute(claim, [owner]).expect("claimed");
    }

    /// Ends all rows that are claimed.
    pub(crate) fn end_all(&self) {
        let end = "UPDATE process SET state = 'ended', claimed_by = NULL, ended_at = 1700000001000, end_reason = 'shutdown', \
                   exit_signal = 15 WHERE state = 'ending'";
        self.connection.execute(end, []).expect("ended");
    }
}

/// Reads the rows that a pass reads.
pub(crate) fn read_running(connection: &Connection) -> usize {
    let mut query = connection
        .prepare_cached("SELECT * FROM process WHERE state <> 'ended' ORDER BY started_at, id")
        .expect("a query");
    let columns = query.column_count();
    let mut rows = query.raw_query();
    let mut count = 0;
    while let Some(row) = rows.next().expect("a row") {
        // Each column is fetched, as by a caller that uses the row.
        for column in 0..columns {
            std::hint::black_box(row.get_ref(column).expect("a column"));
        }
        count += 1;
    }
    count
}

/// Inserts an instance, which is a copy of the first one.
pub(crate) fn insert_instance(connection: &Connection) {
    const COLUMNS: &str = "program, version, machine_id, boot_id, pid_namespace, boottime_offset, pid, start_tick, pidfd_inode,
        uid, lock_name, ledger_device, ledger_inode, started_at, stopped_at, stopped_how";
    let insert =
        format!("INSERT INTO instance ({COLUMNS}) SELECT {COLUMNS} FROM instance WHERE id = 1");
    assert_eq!(connection.execute(&insert, []).expect("inserted"), 1);
}

/// Inserts an orphan pass of the newest instance.
pub(crate) fn insert_pass(connection: &Connection) {
    let insert = "INSERT INTO pass (instance, kind, started_at, duration_us, checked, found, ended, survived, unknown)
                  SELECT max(id), 'orphan', 1700000000000, 500, 0, 0, 0, 0, 0 FROM instance";
    connection.execute(insert, []).expect("inserted");
}

/// Opens a connection like those of this crate.
pub(crate) fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a ledger");
    connection.busy_timeout(Duration::from_secs(5)).expect("set");
    connection
        .execute_batch(
            "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
             PRAGMA journal_mode = WAL",
        )
        .expect("set");
    connection
}
