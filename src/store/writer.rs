//! The connection that writes. There is only one, which threads share, since SQLite has one writer
//! at a time, whatever the number of connections.

use std::{path::Path, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

use super::pool_manager::OwnedConnection;
use crate::{
    error::{Error, Kind, Result},
    sys::fs_user::Account,
};

/// How long a thread waits for the connection. This is longer than the holder of the connection may
/// wait for another process.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Writer(Mutex<OwnedConnection>);

/// The connection, for as long as this lives.
pub(super) type Writing<'a> = MutexGuard<'a, OwnedConnection>;

impl Writer {
    pub(super) fn new(connection: Connection, account: Option<Account>) -> Self {
        Self(Mutex::new(OwnedConnection::new(connection, account)))
    }

    /// Returns the connection if no other thread is using it.
    pub(super) fn try_take(&self) -> Option<Writing<'_>> {
        self.0.try_lock()
    }

    /// Returns the connection once it is free; `None` if that takes longer than `patience`.
    pub(super) fn take_within(&self, patience: Duration) -> Option<Writing<'_>> {
        self.0.try_lock_for(patience)
    }

    /// Returns the connection once it is free.
    ///
    /// # Errors
    ///
    /// Busy if other threads of this process use it for longer than [`PATIENCE`].
    pub(super) fn take(&self, path: &Path, doing: &str) -> Result<Writing<'_>> {
        self.take_within(PATIENCE).ok_or_else(|| {
            let message = format!(
                "failed to {doing} in the ledger `{}`: other threads have used its connection for {} s, try again",
                path.display(),
                PATIENCE.as_secs()
            );
            Error::new(Kind::Busy, message)
        })
    }
}
