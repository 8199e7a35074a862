//! One immediate transaction, begun and committed by statements that are prepared once.
//!
//! rusqlite's own prepares its BEGIN and its COMMIT anew each time, which for a single row is a tenth of the whole.

use std::ops::Deref;

use rusqlite::Connection;

/// Rolled back when it is dropped before its commit, and where that fails.
#[derive(Debug)]
pub(super) struct Transaction<'c>(&'c Connection);

impl<'c> Transaction<'c> {
    /// Waits for another process that writes, as long as the connection's busy timeout says.
    pub(super) fn begin(connection: &'c Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self(connection))
    }

    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([]).map(|_| ())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // SQLite has rolled back by itself after some errors (sqlite.org/lang_transaction.html).
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}
