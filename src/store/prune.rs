//! Old history, deleted in small batches, so that no spawn waits long for the writer.

use rusqlite::Transaction;

use super::Store;
use crate::{error::Result, record::Millis};

impl Store {
    /// Deletes one batch of what ended before, and returns how many rows went (without leaks); 0 when nothing is left.
    /// First processes, then passes, then instances: the caller goes on until it gets 0.
    ///
    /// Processes go with their leaks, and a root after what was found below it; the newest pass of each kind stays, and
    /// so does an instance that a row still names.
    pub(crate) fn prune(&self, before: Millis, batch: u32) -> Result<u64> {
        let deleted =
            self.write("prune the history", |tx| match processes(tx, before, batch)? {
                0 => passes(tx, before, batch),
                deleted => Ok(deleted),
            })?;
        if deleted == 0 { self.prune_instances(before, batch) } else { Ok(deleted) }
    }
}

fn processes(tx: &Transaction<'_>, before: Millis, batch: u32) -> rusqlite::Result<u64> {
    let old: Vec<i64> = tx
        .prepare_cached(
            "SELECT p.id FROM process AS p INDEXED BY process_ended
             WHERE p.ended_at < ?1
               AND NOT EXISTS (SELECT 1 FROM process AS d WHERE d.root = p.id)
             ORDER BY p.ended_at LIMIT ?2",
        )?
        .query_map((before.0, batch), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut leaks = tx.prepare_cached("DELETE FROM leak WHERE process = ?1")?;
    let mut process = tx.prepare_cached("DELETE FROM process WHERE id = ?1")?;
    let mut deleted = 0;
    for id in old {
        leaks.execute([id])?;
        deleted += process.execute([id])? as u64;
    }
    Ok(deleted)
}

fn passes(tx: &Transaction<'_>, before: Millis, batch: u32) -> rusqlite::Result<u64> {
    tx.prepare_cached(
        "DELETE FROM pass WHERE id IN (
           SELECT s.id FROM pass AS s INDEXED BY pass_kind
           WHERE s.kind IN ('health', 'orphan') AND s.started_at < ?1
             AND s.id <> (SELECT n.id FROM pass AS n WHERE n.kind = s.kind
                          ORDER BY n.started_at DESC, n.id DESC LIMIT 1)
             AND NOT EXISTS (SELECT 1 FROM leak WHERE leak.pass = s.id)
           LIMIT ?2)",
    )?
    .execute((before.0, batch))
    .map(|deleted| deleted as u64)
}
