//! Deletes old history in small steps.
//!
//! The rows that may be deleted are picked by a reader, which blocks no writer; the write lock is
//! held only while these rows are deleted by number, each after another check that it need not be
//! kept.
//!
//! The last row of `process`, `leak`, `pass` and `instance` stays, however old it is. SQLite
//! numbers a new row one above the largest existing number: if that row were deleted, its number
//! would be reused, and a reference outside the ledger (a log line, a report, a copy of the rows)
//! would mean another process. AUTOINCREMENT would prevent that as well, but make inserting the row
//! of each spawn take a quarter longer.
//!
//! History that a fleet does not have yet stays as well, unless [`Unshipped::Delete`] says
//! otherwise (`shipment`).

use rusqlite::Connection;

use super::{
    Store,
    shipment::{Shipped, Unshipped},
    transaction::Transaction,
};
use crate::{error::Result, model::Millis};

/// Rows that may be deleted.
#[derive(Debug)]
pub(super) struct Picked {
    table: Table,
    ids: Vec<i64>,
    unshipped: Unshipped,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Process,
    Pass,
}

impl Store {
    /// Returns at most `batch` rows that ended before the given time, first processes, then passes;
    /// `None` if nothing is left.
    pub(super) fn pick(
        &self,
        before: Millis,
        batch: u32,
        unshipped: Unshipped,
    ) -> Result<Option<Picked>> {
        self.read("look for old history", |connection| {
            let shipped = Shipped::now(connection, self.schema(), unshipped)?;
            for table in [Table::Process, Table::Pass] {
                let ids = match table {
                    Table::Process => {
                        let before = before.min(shipped.ends).0;
                        ids(connection, PROCESSES, (before, batch, shipped.process, shipped.leak))
                    }
                    Table::Pass => ids(connection, PASSES, (before.min(shipped.passes).0, batch)),
                }?;
                if !ids.is_empty() {
                    return Ok(Some(Picked { table, ids, unshipped }));
                }
            }
            Ok(None)
        })
    }

    /// Returns how many processes and passes ended before the given time and are not kept for a
    /// fleet; a few of them may have to stay.
    pub(crate) fn count_before(&self, before: Millis) -> Result<u64> {
        self.read("count old history", |connection| {
            let shipped = Shipped::now(connection, self.schema(), Unshipped::Keep)?;
            let (ends, passes) = (before.min(shipped.ends).0, before.min(shipped.passes).0);
            connection
                .prepare_cached(
                    "SELECT (SELECT count(*) FROM process INDEXED BY process_ended
                             WHERE ended_at < ?1 AND id <= ?2)
                       + (SELECT count(*) FROM pass INDEXED BY pass_kind
                          WHERE kind IN ('health', 'orphan') AND started_at < ?3)",
                )?
                .query_one((ends, shipped.process, passes), |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    /// Returns the time of the oldest end or pass.
    pub(crate) fn oldest(&self) -> Result<Option<Millis>> {
        self.read("look for the oldest history", |connection| {
            connection
                .prepare_cached(
                    "SELECT min(at) FROM (
                       SELECT min(ended_at) AS at FROM process INDEXED BY process_ended WHERE ended_at IS NOT NULL
                       UNION ALL SELECT min(started_at) FROM pass WHERE kind = 'health'
                       UNION ALL SELECT min(started_at) FROM pass WHERE kind = 'orphan')",
                )?
                .query_one([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Millis)))
        })
    }
}

/// A root is deleted after its descendants. The last process stays, and so do the process with the
/// last leak and those that were not shipped: above `?3`, or with a leak above `?4`.
pub(super) const PROCESSES: &str = "SELECT p.id FROM process AS p INDEXED BY process_ended
     WHERE p.ended_at < ?1 AND NOT EXISTS (SELECT 1 FROM process AS d WHERE d.root = p.id)
       AND p.id <> (SELECT max(id) FROM process)
       AND p.id IS NOT (SELECT process FROM leak WHERE id = (SELECT max(id) FROM leak))
       AND p.id <= ?3 AND NOT EXISTS (SELECT 1 FROM leak AS l WHERE l.process = p.id AND l.id > ?4)
     ORDER BY p.ended_at LIMIT ?2";

/// The newest pass of each kind stays, and so does the last one by number, which may be another one
/// if the clock was set back. A pass that found a leak is deleted after the leak.
pub(super) const PASSES: &str = "SELECT s.id FROM pass AS s INDEXED BY pass_kind
     WHERE s.kind IN ('health', 'orphan') AND s.started_at < ?1
       AND s.id <> (SELECT max(id) FROM pass)
       AND s.id <> (SELECT n.id FROM pass AS n WHERE n.kind = s.kind
                    ORDER BY n.started_at DESC, n.id DESC LIMIT 1)
       AND NOT EXISTS (SELECT 1 FROM leak WHERE leak.pass = s.id)
     LIMIT ?2";

fn ids(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<i64>> {
    connection.prepare_cached(sql)?.query_map(params, |row| row.get(0))?.collect()
}

/// Deletes the picked rows; returns how many were deleted, not counting leaks.
pub(super) fn delete(tx: &Transaction<'_>, picked: &Picked) -> rusqlite::Result<u64> {
    let ids = &picked.ids;
    match picked.table {
        Table::Process => {
            let shipped = Shipped::now(tx, tx.schema(), picked.unshipped)?;
            processes(tx, ids, shipped)
        }
        Table::Pass => passes(tx, ids),
    }
}

/// Deletes processes with their leaks, after checking again: since a row was picked, a stray may
/// have been recorded below it, or the newest leak may be one of it, or a fleet may have been added
/// or reset to an earlier state.
fn processes(tx: &Transaction<'_>, ids: &[i64], shipped: Shipped) -> rusqlite::Result<u64> {
    let mut stays = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM process WHERE root = ?1)
           OR ?1 = (SELECT max(id) FROM process)
           OR ?1 IS (SELECT process FROM leak WHERE id = (SELECT max(id) FROM leak))
           OR ?1 > ?2
           OR EXISTS (SELECT 1 FROM leak WHERE process = ?1 AND id > ?3)
           OR NOT EXISTS (SELECT 1 FROM process WHERE id = ?1 AND ended_at < ?4)",
    )?;
    let mut leaks = tx.prepare_cached("DELETE FROM leak WHERE process = ?1")?;
    let mut process = tx.prepare_cached("DELETE FROM process WHERE id = ?1")?;
    let mut deleted = 0;
    for id in ids {
        let params = (id, shipped.process, shipped.leak, shipped.ends.0);
        if !stays.query_one(params, |row| row.get::<_, bool>(0))? {
            leaks.execute([id])?;
            deleted += process.execute([id])? as u64;
        }
    }
    Ok(deleted)
}

fn passes(tx: &Transaction<'_>, ids: &[i64]) -> rusqlite::Result<u64> {
    let mut pass = tx.prepare_cached(
        "DELETE FROM pass WHERE id = ?1 AND id <> (SELECT max(id) FROM pass)
           AND NOT EXISTS (SELECT 1 FROM leak WHERE leak.pass = ?1)",
    )?;
    let mut deleted = 0;
    for id in ids {
        deleted += pass.execute([id])? as u64;
    }
    Ok(deleted)
}
