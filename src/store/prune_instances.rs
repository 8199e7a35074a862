//! Deletes old instances to which no row refers any more. The last one stays, so that its number is
//! not reused (`prune`).
//!
//! No index shows which ended processes refer to an instance: it would slow down every spawn, for a
//! query that is made once a day. So a reader scans the processes once for a whole batch, without
//! blocking a writer. Meanwhile no new row can refer to a stopped instance: an instance writes only
//! its own rows, and only while it is alive. If an instance that was taken for dead goes on after
//! all, its next row refers to an instance that no longer exists, and is refused.

use rusqlite::{Connection, config::DbConfig};

use super::{Store, transaction::Transaction};
use crate::{error::Result, model::Millis};

/// The subqueries run once, and not at all if no instance is old enough.
const UNNAMED: &str = "SELECT i.id FROM instance AS i
     WHERE i.stopped_at < ?1
       AND i.id <> (SELECT max(id) FROM instance)
       AND NOT EXISTS (SELECT 1 FROM pass AS s WHERE s.instance = i.id)
       AND NOT EXISTS (SELECT 1 FROM process AS p WHERE p.claimed_by = i.id)
       AND i.id NOT IN (SELECT owner FROM process)
       AND i.id NOT IN (SELECT first_owner FROM process)
     LIMIT ?2";

impl Store {
    /// Returns at most `limit` instances that stopped before the given time and to which no row
    /// refers any more.
    pub(super) fn unnamed_instances(&self, before: Millis, limit: u32) -> Result<Vec<i64>> {
        self.read("look for old instances", |connection| {
            connection
                .prepare_cached(UNNAMED)?
                .query_map((before.0, limit), |row| row.get(0))?
                .collect()
        })
    }
}

/// Deletes instances, on a connection that is [`WithoutForeignKeys`]: otherwise SQLite would scan
/// all processes again for each instance, while every writer waits. Returns how many were deleted.
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

/// Turns the check of references on a connection off until it is dropped.
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
        // This only sets a flag of the connection, which cannot fail.
        let _ = self.0.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true);
    }
}
