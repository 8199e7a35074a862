//! The connections of an open ledger: at most so many, each for one thread at a time.
//!
//! One is opened when it is needed, by the thread that needs it, and stays open: a connection to a local file does not become
//! stale.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    access::{Access, connect},
    failure::failed,
    in_place::Files,
};
use crate::{
    error::{Error, Kind, Result},
    sys::fs_user::Account,
};

/// How long a thread waits for a connection: longer than one that waits for another process.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that is also closed as the ledger's owner: the last one to close removes `-wal` and `-shm` by path.
#[derive(Debug)]
pub(super) struct Owned {
    /// `None` only during drop.
    connection: Option<Connection>,
    account: Option<Account>,
}

impl Owned {
    pub(super) fn new(connection: Connection, account: Option<Account>) -> Self {
        Self { connection: Some(connection), account }
    }
}

impl Deref for Owned {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().unwrap_or_else(|| unreachable!("it is taken by drop alone"))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let acting = self.account.as_ref().map(Account::act).transpose();
        if acting.is_err() {
            // Entering worked when it was opened. A descriptor that stays open does less harm than a file that root removes.
            std::mem::forget(self.connection.take());
        }
        drop(self.connection.take());
    }
}

/// Connections of one kind.
#[derive(Debug)]
pub(super) struct Pool {
    path: PathBuf,
    access: Access,
    account: Option<Account>,
    files: Arc<Files>,
    most: usize,
    state: Mutex<State>,
    /// Signalled when a connection is given back.
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    idle: Vec<Owned>,
    /// All of them, in use or not.
    open: usize,
}

/// A connection in use; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pooled<'a> {
    pool: &'a Pool,
    /// `None` only during drop.
    connection: Option<Owned>,
}

impl Deref for Pooled<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_deref().unwrap_or_else(|| unreachable!("it is taken by drop alone"))
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        self.pool.state().idle.extend(self.connection.take());
        self.pool.freed.notify_one();
    }
}

impl Pool {
    /// Creates a pool of `most` connections at `path`, the first of which may be open already.
    pub(super) fn new(
        path: PathBuf,
        access: Access,
        most: usize,
        first: Option<Connection>,
        account: Option<Account>,
        files: Arc<Files>,
    ) -> Self {
        let idle: Vec<Owned> = first.map(|first| Owned::new(first, account)).into_iter().collect();
        let state = Mutex::new(State { open: idle.len(), idle });
        Self { path, access, account, files, most, state, freed: Condvar::new() }
    }

    /// Returns a connection; opens another one where all are in use, and waits where these are all that there may be.
    pub(super) fn get(&self, doing: &str) -> Result<Pooled<'_>> {
        self.get_within(PATIENCE, doing)
    }

    /// Does the same, and waits for at most `patience`.
    pub(super) fn get_within(&self, patience: Duration, doing: &str) -> Result<Pooled<'_>> {
        let until = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if let Some(connection) = state.idle.pop() {
                return Ok(self.lent(connection));
            }
            let mut refused = None;
            if state.open < self.most {
                state.open += 1;
                drop(state);
                match self.open() {
                    Ok(connection) => return Ok(self.lent(connection)),
                    Err(error) => refused = Some(error),
                }
                state = self.state();
                state.open -= 1;
            }
            // Without descriptors or memory for one more, those that are open are enough.
            let left = until.saturating_duration_since(Instant::now());
            if state.open == 0 || left.is_zero() {
                return Err(refused.unwrap_or_else(|| none_free(&self.path, doing)));
            }
            let waited = self.freed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns a connection that is idle now.
    pub(super) fn try_get(&self) -> Option<Pooled<'_>> {
        let idle = self.state().idle.pop();
        idle.map(|connection| self.lent(connection))
    }

    /// Returns the number of open connections, in use or not.
    pub(super) fn open_connections(&self) -> usize {
        self.state().open
    }

    /// Opens another connection. It refuses to open what is in the place of the ledger that the other connections have open:
    /// SQLite would read another ledger's rows; beside an emptied file it would remove the WAL, and without a WAL create a new
    /// one.
    fn open(&self) -> Result<Owned> {
        let _acting = self.account.as_ref().map(Account::act).transpose()?;
        self.files.check_again()?;
        let connection = connect(&self.path, self.access)
            .map_err(|error| failed(&self.path, "open a connection", error))?;
        let opened = Owned::new(connection, self.account);
        // Again: it may have been exchanged in between.
        self.files.check_again()?;
        Ok(opened)
    }

    fn lent(&self, connection: Owned) -> Pooled<'_> {
        Pooled { pool: self, connection: Some(connection) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn none_free(path: &Path, doing: &str) -> Error {
    let message = format!(
        "failed to {doing} in the ledger `{}`: no connection was free in time, try again",
        path.display()
    );
    Error::new(Kind::Busy, message)
}
