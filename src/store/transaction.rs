//! An immediate transaction that is begun and committed by statements that are prepared once.
//!
//! rusqlite's own transaction prepares BEGIN and COMMIT anew each time, which takes a tenth of the
//! time of a single-row transaction.

use std::ops::Deref;

use rusqlite::Connection;

use super::migration::Schema;

/// An immediate transaction. It is rolled back if it is dropped before its commit, or if the commit
/// fails.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    connection: &'c Connection,
    schema: Schema,
}

impl<'c> Transaction<'c> {
    /// Begins a transaction. Waits for another process that writes, up to the connection's busy
    /// timeout.
    pub(super) fn begin(connection: &'c Connection, schema: Schema) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self { connection, schema })
    }

    /// Returns the ledger's schema, which may lack the additions of a later migration.
    pub(super) fn schema(&self) -> Schema {
        self.schema
    }

    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([]).map(|_| ())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // SQLite has already rolled back after some errors (sqlite.org/lang_transaction.html).
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection) -> i64 {
        connection.query_one("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a count")
    }

    #[test]
    fn a_commit_that_fails_leaves_nothing_and_the_next_transaction_begins() {
        let connection = Connection::open_in_memory().expect("a database");
        let schema = "PRAGMA foreign_keys = ON; CREATE TABLE t (id INTEGER PRIMARY KEY,
            other INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED)";
        connection.execute_batch(schema).expect("a table");
        for _ in 0..2 {
            let transaction = Transaction::begin(&connection, Schema::latest()).expect("begun");
            transaction.execute("INSERT INTO t VALUES (1, 7)", []).expect("inserted");
            // SQLite leaves a transaction open if its COMMIT was refused.
            transaction.commit().expect_err("a row that refers to none");
            assert!(connection.is_autocommit());
            assert_eq!(count(&connection), 0);
        }
        let transaction = Transaction::begin(&connection, Schema::latest()).expect("begun");
        transaction.execute("INSERT INTO t VALUES (1, NULL)", []).expect("inserted");
        transaction.commit().expect("committed");
        assert_eq!(count(&connection), 1);
    }

    #[test]
    fn a_panic_within_a_transaction_leaves_none_open() {
        let connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").expect("a table");
        let within = std::panic::AssertUnwindSafe(|| {
            let transaction = Transaction::begin(&connection, Schema::latest()).expect("begun");
            transaction.execute("INSERT INTO t VALUES (1)", []).expect("inserted");
            panic!("on purpose");
        });
        std::panic::catch_unwind(within).expect_err("it panicked");
        assert!(connection.is_autocommit());
        assert_eq!(count(&connection), 0);
    }
}
