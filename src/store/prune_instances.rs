//! Old instances, deleted once no row names them. The last one stays, so that its number is not used again (`prune`).
//!
//! No index shows which ended processes name an instance: it would cost every spawn, for a query that is made once a day. So a
//! reader scans the processes once for a whole batch, without blocking a writer. A stopped instance is certainly not named by a
//! new row meanwhile: only a live one writes rows, in its own name. Should an instance that was taken for dead go on, its next
//! row names an instance that is gone, and is refused.

use rusqlite::{Connection, config::DbConfig};

use super::{Store, transaction::Transaction};
use crate::{error::Result, model::Millis};

/// The subqueries are run once, and not at all where no instance is old enough.
const UNNAMED: &str = "SELECT i.id FROM instance AS i
     WHERE i.stopped_at < ?1
       AND i.id <> (SELECT max(id) FROM instance)
       AND NOT EXISTS (SELECT 1 FROM pass AS s WHERE s.instance = i.id)
       AND NOT EXISTS (SELECT 1 FROM process AS p WHERE p.claimed_by = i.id)
       AND i.id NOT IN (SELECT owner FROM process)
       AND i.id NOT IN (SELECT first_owner FROM process)
     LIMIT ?2";

impl Store {
    /// Returns at most `limit` instances that stopped before and that no row names any more.
    pub(super) fn unnamed_instances(&self, before: Millis, limit: u32) -> Result<Vec<i64>> {
        self.read("look for old instances", |connection| {
            connection
                .prepare_cached(UNNAMED)?
                .query_map((before.0, limit), |row| row.get(0))?
                .collect()
        })
    }
}

/// Deletes them, on a connection that is [`WithoutForeignKeys`]: SQLite would scan all processes again, for each instance and
/// while every writer waits. Returns how many were deleted.
pub(super) fn delete(tx: &Transaction<'_>, unnamed: &[i64]) -> rusqlite::Result<u64> {
    // References that have an index are checked once more.
    let mut statement = tx.prepare_cached(
        "DELETE FROM instance WHERE id = ?1 AND stopped_at IS NOT NULL
           AND id <> (SELECT max(id) FROM instance)
           AND NOT EXISTS (SELECT 1 FROM pass AS s WHERE s.instance = ?1)
           AND NOT EXISTS (SELECT 1 FROM process AS p WHERE p.claimed_by = ?1)
           AND NOT EXISTS (SELECT 1 FROM process AS p INDEXED BY process_live_owner
                           WHERE p.owner = ?1 AND p.state <> 'ended')",
    )?;
    let mut deleted = 0;
    for id in unnamed {
        deleted += statement.execute([id])? as u64;
    }
    Ok(deleted)
}

/// A connection that checks no references until this is dropped.
pub(super) struct WithoutForeignKeys<'a>(&'a Connection);

impl<'a> WithoutForeignKeys<'a> {
    pub(super) fn on(connection: &'a Connection) -> rusqlite::Result<Self> {
        let this = Self(connection);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        Ok(this)
    }
}

impl Drop for WithoutForeignKeys<'_> {
    fn drop(&mut self) {
        // It only sets a flag of the connection; SQLite cannot refuse it.
        let _ = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true);
    }
}
