//! A ledger that is read batch by batch.

use std::path::Path;

use crate::{
    error::Result,
    model::{Batch, Position},
    store::{BATCH, Store},
};

/// A ledger that is read batch by batch.
#[derive(Clone, Debug)]
pub struct Stream {
    store: Store,
    uuid: String,
    start: Position,
}

impl Stream {
    /// Opens the ledger for reading.
    ///
    /// # Errors
    ///
    /// As for [`Ledger::open`](crate::Ledger::open); unsupported if the ledger has a schema before
    /// 4, and so no uuid.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let store = Store::open_read_only(path.as_ref())?;
        let (uuid, start) = store.stream_start()?;
        Ok(Self { store, uuid, start })
    }

    /// Returns the uuid of the ledger, 32 hex digits.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Returns the position of a receiver that has nothing.
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// Reports whether this ledger continues what a receiver at this position has. If not, it was
    /// restored from a backup, and the receiver has to begin again at the [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn continues(&self, position: &Position) -> Result<bool> {
        self.store.continues(position)
    }

    /// Returns what a receiver at this position lacks: at most 2,000 rows and about 1 MiB.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn next(&self, position: &Position) -> Result<Batch> {
        self.store.next_batch(position, BATCH)
    }
}
