//! Checks that the files that SQLite has open are still those that the ledger's path names.
//!
//! SQLite does not check this in WAL mode. If its file was removed, it would keep writing to a file
//! that no program will ever read; if the file was replaced, two programs would hold unrelated
//! locks (<https://sqlite.org/howtocorrupt.html>, 4.3 and 4.4). So each write is preceded by a
//! check. Only certain facts count: if the folder cannot be read, as after a change of user, the
//! open files stay in use.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::trust::beside;
use crate::error::{Error, Kind, Result};

/// A file's device and inode.
type FileId = (u64, u64);

/// How long a check of the companions is valid, in milliseconds. A check takes a microsecond for
/// each file, and a row that is written after a removal within this time is no worse off than one
/// written just before it.
const LOOK_AGAIN_MS: u64 = 5;

/// The files of an open ledger. Each keeps its inode as long as a connection is open.
#[derive(Debug)]
pub(super) struct LedgerFiles {
    ledger: PathBuf,
    id: FileId,
    /// The WAL and its index.
    companions: Vec<(PathBuf, FileId)>,
    opened: Instant,
    /// When the companions were last found in their place, in milliseconds.
    seen: AtomicU64,
}

/// The result of looking for a file at its path.
enum Found {
    Same { len: u64 },
    Other,
    Nothing,
    CannotTell,
}

impl LedgerFiles {
    /// Notes the companions that exist now, which a connection has open.
    pub(super) fn of(ledger: &Path, id: FileId) -> Self {
        let companions = ["-wal", "-shm"].iter().filter_map(|suffix| {
            let path = beside(ledger, suffix);
            let id = fs::symlink_metadata(&path).ok().map(|seen| (seen.dev(), seen.ino()))?;
            Some((path, id))
        });
        Self {
            ledger: ledger.to_owned(),
            id,
            companions: companions.collect(),
            opened: Instant::now(),
            seen: AtomicU64::new(0),
        }
    }

    /// Returns the ledger's device and inode.
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Refuses a write if the open files were removed or replaced.
    pub(super) fn check(&self) -> Result<()> {
        let shown = self.ledger.display();
        let wrong = |what: String| Err(Error::new(Kind::NotFound, what));
        match find(&self.ledger, self.id) {
            Found::Same { len: 0 } => {
                return wrong(format!(
                    "the ledger `{shown}` was emptied while it was open: stop the programs that have it open, then restore a backup or remove it"
                ));
            }
            Found::Other => {
                return wrong(format!(
                    "the ledger `{shown}` was replaced by another file while it was open: put it back, or restart this program"
                ));
            }
            Found::Nothing => {
                return wrong(format!(
                    "the ledger `{shown}` was removed while it was open: put it back, or restart this program, which then creates a new one"
                ));
            }
            Found::Same { .. } | Found::CannotTell => {}
        }
        self.check_companions()
    }

    /// Does the same without relying on an earlier check.
    pub(super) fn check_again(&self) -> Result<()> {
        self.seen.store(0, Ordering::Relaxed);
        self.check()
    }

    fn check_companions(&self) -> Result<()> {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let seen = self.seen.load(Ordering::Relaxed);
        if seen > 0 && now.saturating_sub(seen) < LOOK_AGAIN_MS {
            return Ok(());
        }
        self.companions.iter().try_for_each(|(path, id)| match find(path, *id) {
            Found::Same { .. } | Found::CannotTell => Ok(()),
            Found::Other | Found::Nothing => Err(Error::new(
                Kind::NotFound,
                format!(
                    "`{}` was removed while the ledger was open: put it back, or restart every program that has the ledger open",
                    path.display()
                ),
            )),
        })?;
        self.seen.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Reports whether all files are where they were, and the WAL has at most this size.
    pub(super) fn has_small_wal(&self, most: u64) -> bool {
        let in_place = |found| matches!(found, Found::Same { .. });
        in_place(find(&self.ledger, self.id))
            && matches!(&*self.companions, [(wal, id), (index, index_id)]
                if matches!(find(wal, *id), Found::Same { len } if len <= most)
                    && in_place(find(index, *index_id)))
    }

    /// Reports whether the ledger is where it was, but its WAL was removed and there is no new one.
    pub(super) fn has_lost_its_wal(&self) -> bool {
        matches!(find(&self.ledger, self.id), Found::Same { len: 1.. })
            && self.companions.iter().any(|(path, id)| matches!(find(path, *id), Found::Nothing))
            && !self.companions.iter().any(|(path, id)| matches!(find(path, *id), Found::Other))
    }
}

fn find(path: &Path, id: FileId) -> Found {
    match fs::symlink_metadata(path) {
        Ok(seen) if (seen.dev(), seen.ino()) == id => Found::Same { len: seen.len() },
        Ok(_) => Found::Other,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Found::Nothing
        }
        Err(_) => Found::CannotTell,
    }
}
