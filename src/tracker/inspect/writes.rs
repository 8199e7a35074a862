//! Detects that a ledger was written, by inotify(7) on its folder.
//!
//! SQLite writes each commit to the WAL by pwrite(2). The index of the WAL, by which readers find
//! the commit, is written a moment later, so a reader that is woken first waits for [`SETTLES`].

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    time::Duration,
};

use crate::{
    store::Store,
    sys::folder_watch::{FolderWatch, Interest},
};

/// Pause after a write, so that a busy ledger is not read for each of its transactions.
pub(in crate::tracker) const SETTLES: Duration = Duration::from_millis(5);
/// Interval of queries of the ledger without inotify.
pub(in crate::tracker) const UNWATCHED: Duration = Duration::from_millis(100);
/// The same with inotify, which on some file systems does not report the changes of other machines.
pub(in crate::tracker) const WATCHED: Duration = Duration::from_secs(5);

/// Detects writes to the files of a ledger by any process.
#[derive(Debug)]
pub(in crate::tracker) struct Writes {
    folder: FolderWatch,
    /// The prefix of the names of these files.
    name: Vec<u8>,
}

impl Writes {
    /// Starts watching; returns `None` if inotify is not available.
    pub(super) fn of(store: &Store) -> Option<Self> {
        let path = store.path();
        let _acting = store.act_as_owner().ok()?;
        let folder = FolderWatch::new(path.parent()?, Interest::Writes).ok()?;
        Some(Self { folder, name: path.file_name()?.as_bytes().to_vec() })
    }

    /// Reads the events that have arrived, and returns whether one of them concerned, or may have
    /// concerned, a file of the ledger.
    pub(in crate::tracker) fn take(&self) -> bool {
        let mut is_of_ledger = false;
        self.folder.read(|_, name| {
            is_of_ledger |= name.is_empty() || name.as_bytes().starts_with(&self.name);
        });
        is_of_ledger
    }
}

#[cfg(feature = "tokio")]
impl Writes {
    /// Returns the descriptor that is readable after a write.
    pub(in crate::tracker) fn fd(&self) -> &std::sync::Arc<std::os::fd::OwnedFd> {
        self.folder.fd()
    }
}

impl AsFd for Writes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}
