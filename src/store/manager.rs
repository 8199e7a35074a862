//! What a pool makes its connections with.

use std::sync::{Mutex, PoisonError};

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

/// Begins with a connection that is there already: each that is opened anew reads and parses the whole schema.
#[derive(Debug)]
pub(super) struct Manager {
    others: SqliteConnectionManager,
    first: Mutex<Option<Connection>>,
}

impl Manager {
    pub(super) fn new(first: Option<Connection>, others: SqliteConnectionManager) -> Self {
        Self { others, first: Mutex::new(first) }
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<Connection> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.map_or_else(|| self.others.connect(), Ok)
    }

    fn is_valid(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        self.others.is_valid(connection)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.others.has_broken(connection)
    }
}
