//! Keeps the file small: deletes old rows, frees pages and copies the WAL back.
//!
//! A [`MaintenanceConnection`] has a connection of its own, so that no thread of this process waits
//! for the pool's writer while it works. It holds the write lock for one small step at a time, and
//! reports for how long, so that its caller can pace it.
//!
//! The WAL is copied back (`PASSIVE`) without the write lock, however long the disk takes. Only
//! `TRUNCATE` needs the lock, and waits for readers while it holds it. So it is tried when nothing
//! is left to copy, and gives up at once if a reader blocks it
//! (<https://sqlite.org/c3ref/wal_checkpoint_v2.html>).

use std::time::{Duration, Instant};

use super::{
    Store,
    budget::{Budget, WRITE},
    failure::failed,
    open_connection::{BUSY_TIMEOUT, WAL_LIMIT_BYTES, another_writer},
    pool_manager::OwnedConnection,
    prune,
    prune_instances::{self, WithoutForeignKeys},
    shipment::Unshipped,
    transaction::Transaction,
};
use crate::{
    error::{Error, Result},
    model::Millis,
};

/// Number of deletable instances that are searched for at once.
const UNNAMED_AT_ONCE: u32 = 10_000;
/// How often a checkpoint is attempted if others write while it copies.
const CHECKPOINTS: u32 = 3;

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The number of rows or pages.
    pub(crate) done: u64,
    /// How long it held the write lock.
    pub(crate) held: Duration,
}

/// Size of the ledger in bytes, without its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) total: u64,
    /// The bytes in used pages.
    pub(crate) used: u64,
}

/// A connection for work that can wait.
#[derive(Debug)]
pub(crate) struct MaintenanceConnection {
    store: Store,
    connection: OwnedConnection,
    /// Instances that may be deleted. Finding them requires a scan of all processes, so many are
    /// found at once.
    unnamed: Vec<i64>,
}

impl Store {
    /// Opens the connection.
    ///
    /// # Errors
    ///
    /// If the ledger was opened for reading only, or cannot be opened once more.
    pub(crate) fn maintenance_connection(&self) -> Result<MaintenanceConnection> {
        self.check_writable("maintain the ledger")?;
        let _acting = self.act_as_owner()?;
        self.check_not_replaced()?;
        let connection = OwnedConnection::new(another_writer(self.path())?, self.account());
        Ok(MaintenanceConnection { store: self.clone(), connection, unnamed: Vec::new() })
    }

    /// Returns the size of the ledger.
    pub(crate) fn size(&self) -> Result<Size> {
        self.read("read the size", |connection| {
            let number = |pragma: &str| {
                connection
                    .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
                    .map(i64::cast_unsigned)
            };
            let (page, pages) = (number("page_size")?, number("page_count")?);
            let free = number("freelist_count")?;
            Ok(Size { total: page * pages, used: page * pages.saturating_sub(free) })
        })
    }

    /// Returns the size of the WAL file in bytes; 0 if there is none.
    pub(crate) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(self.beside("-wal")).map_or(0, |file| file.len())
    }

    /// Reports whether the WAL is larger than a checkpoint would leave it.
    pub(crate) fn wal_is_too_large(&self) -> bool {
        self.wal_bytes() > WAL_LIMIT_BYTES.cast_unsigned()
    }
}

impl MaintenanceConnection {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Deletes at most `batch` rows that ended before the given time; reports 0 if nothing is left.
    ///
    /// Processes are deleted with their leaks, and a root after its descendants. Kept are the
    /// newest pass of each kind, the last row of each table, instances that a row still refers to
    /// and, if requested, rows that a fleet does not have yet.
    pub(crate) fn prune(
        &mut self,
        before: Millis,
        batch: u32,
        unshipped: Unshipped,
    ) -> Result<Step> {
        match self.store.pick(before, batch, unshipped)? {
            Some(picked) => self.step("prune the history", |tx| prune::delete(tx, &picked)),
            None => self.prune_instances(before, batch),
        }
    }

    fn prune_instances(&mut self, before: Millis, batch: u32) -> Result<Step> {
        if self.unnamed.is_empty() {
            self.unnamed = self.store.unnamed_instances(before, UNNAMED_AT_ONCE)?;
        }
        while !self.unnamed.is_empty() {
            let rest = self.unnamed.len().saturating_sub(batch as usize);
            let ids = self.unnamed.split_off(rest);
            let _unchecked = WithoutForeignKeys::on(&self.connection)
                .map_err(|error| self.wrong("prune the instances", error))?;
            let step = self.step("prune the instances", |tx| prune_instances::delete(tx, &ids))?;
            if step.done > 0 {
                return Ok(step);
            }
        }
        Ok(Step { done: 0, held: Duration::ZERO })
    }

    /// Releases at most `pages` free pages; reports 0 if none is left. The file gets smaller with
    /// the next checkpoint.
    pub(crate) fn free_pages(&self, pages: u32) -> Result<Step> {
        self.step("free pages", |tx| {
            let free = || tx.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
            let before = free()?;
            if before > 0 {
                tx.pragma(None, "incremental_vacuum", pages, |_| Ok(()))?;
            }
            Ok((before - free()?).max(0).cast_unsigned())
        })
    }

    /// Copies the WAL into the ledger, as far as readers allow it, and empties it if it is too
    /// large, or `always`. Returns whether that was possible.
    pub(crate) fn checkpoint(&self, always: bool) -> Result<bool> {
        let wrong = |error| self.wrong("write back the WAL", error);
        let _acting = self.store.act_as_owner()?;
        for _ in 0..CHECKPOINTS {
            let (pages, copied): (i64, i64) = self
                .connection
                .query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                    Ok((row.get(1)?, row.get(2)?))
                })
                .map_err(wrong)?;
            if pages == copied {
                return if always || self.store.wal_is_too_large() {
                    self.truncate()
                } else {
                    Ok(true)
                };
            }
        }
        Ok(false)
    }

    fn truncate(&self) -> Result<bool> {
        let busy = self.connection.busy_timeout(Duration::ZERO).and_then(|()| {
            self.connection
                .query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        });
        let restored = self.connection.busy_timeout(BUSY_TIMEOUT);
        match busy
            .and_then(|busy| restored.map(|()| busy))
            .map_err(|error| self.wrong("empty the WAL", error))
        {
            Ok(busy) => Ok(!busy),
            Err(error) if error.is_busy() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs one immediate transaction, timed from the moment when it has the lock.
    fn step(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<u64>,
    ) -> Result<Step> {
        let path = self.store.path();
        let _acting = self.store.act_as_owner()?;
        let _budget = Budget::of(WRITE);
        let answer =
            Transaction::begin(&self.connection, self.store.schema()).and_then(|transaction| {
                let began = Instant::now();
                let done = work(&transaction)?;
                transaction.commit()?;
                Ok(Step { done, held: began.elapsed() })
            });
        answer.map_err(|error| failed(path, doing, error))
    }

    fn wrong(&self, doing: &str, error: rusqlite::Error) -> Error {
        failed(self.store.path(), doing, error)
    }
}
