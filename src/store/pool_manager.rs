//! Opens the connections of the pool of readers.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, Error};

use super::ledger_files::LedgerFiles;
use crate::sys::fs_user::Account;

/// Opens connections for r2d2. The first is an existing one, since each new connection reads and
/// parses the whole schema.
#[derive(Debug)]
pub(super) struct PoolManager {
    others: SqliteConnectionManager,
    first: Mutex<Option<Connection>>,
    account: Option<Account>,
    files: Arc<LedgerFiles>,
}

/// A connection that is closed with the file access rights of the ledger's owner: the last one to
/// close removes `-wal` and `-shm` by path.
#[derive(Debug)]
pub(super) struct OwnedConnection {
    /// `None` only during drop.
    connection: Option<Connection>,
    account: Option<Account>,
}

impl OwnedConnection {
    pub(super) fn new(connection: Connection, account: Option<Account>) -> Self {
        Self { connection: Some(connection), account }
    }
}

impl Deref for OwnedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().unwrap_or_else(|| unreachable!("only drop takes it"))
    }
}

impl DerefMut for OwnedConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().unwrap_or_else(|| unreachable!("only drop takes it"))
    }
}

impl Drop for OwnedConnection {
    fn drop(&mut self) {
        let acting = self.account.as_ref().map(Account::act).transpose();
        if acting.is_err() {
            // Changing the rights worked when it was opened. A descriptor that stays open does less
            // harm than root removing a file.
            std::mem::forget(self.connection.take());
        }
        drop(self.connection.take());
    }
}

impl PoolManager {
    pub(super) fn new(
        first: Option<Connection>,
        others: SqliteConnectionManager,
        account: Option<Account>,
        files: Arc<LedgerFiles>,
    ) -> Self {
        Self { others, first: Mutex::new(first), account, files }
    }

    /// Fails if another file is in the place of the ledger that the other connections have open.
    /// SQLite would read another ledger's rows; beside an emptied file it would remove the WAL, and
    /// without a WAL it would create a new one.
    fn check_not_replaced(&self) -> rusqlite::Result<()> {
        self.files.check_again().map_err(|error| {
            let not_opened = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
            Error::SqliteFailure(not_opened, Some(error.to_string()))
        })
    }
}

impl ManageConnection for PoolManager {
    type Connection = OwnedConnection;
    type Error = rusqlite::Error;

    fn connect(&self) -> rusqlite::Result<OwnedConnection> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            return Ok(OwnedConnection::new(first, self.account));
        }
        let _acting = self.account.as_ref().map(Account::act).transpose().map_err(|error| {
            let denied = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_PERM);
            Error::SqliteFailure(denied, Some(error.to_string()))
        })?;
        self.check_not_replaced()?;
        let opened = OwnedConnection::new(self.others.connect()?, self.account);
        // Checked again, since the file may have been exchanged in between.
        self.check_not_replaced()?;
        Ok(opened)
    }

    fn is_valid(&self, connection: &mut OwnedConnection) -> rusqlite::Result<()> {
        self.others.is_valid(connection)
    }

    fn has_broken(&self, connection: &mut OwnedConnection) -> bool {
        self.others.has_broken(connection)
    }
}

impl Drop for PoolManager {
    /// Closes a first connection that no pool has taken.
    fn drop(&mut self) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(first.map(|first| OwnedConnection::new(first, self.account)));
    }
}
