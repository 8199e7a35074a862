//! Detects changes beside a ledger: from inotify(7), from a program that watches folders for many
//! ledgers, or by listing.
//!
//! inotify instances are scarce (`fs.inotify.max_user_instances`, 128 for each user by default, and
//! `max_user_watches`), and other programs of the same user may have taken all of them. A watch
//! does not fail because of that: it lists the folder each second instead, logs that once, and
//! returns to inotify when it is available again.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{
    sys::folder_watch::{FolderWatch, Interest, Kind},
    tracker::runtime::liveness::is_lock_name,
};

/// Interval at which inotify is retried while it is not available.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Maximum length of a file name (`NAME_MAX` in `linux/limits.h`).
const LONGEST_NAME: usize = 255;

/// A change in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Change {
    /// A lock file was created.
    LockMade(OsString),
    /// A lock file was removed.
    LockRemoved(OsString),
    /// A lock file was closed by a process that could write it.
    LockClosed,
    /// The change concerns the ledger's file, or the folder.
    Other,
}

#[derive(Debug)]
enum Source {
    /// Our own instance, and the folder (device, inode) that it watches.
    Inotify { watch: FolderWatch, of: Option<(u64, u64)> },
    /// Names, each terminated by a NUL, from a program that has an inotify instance.
    Names { pipe: OwnedFd, rest: Vec<u8> },
    /// No event source is available.
    Listed { tried: Instant },
}

/// The folder of a ledger.
#[derive(Debug)]
pub(in crate::tracker) struct Folder {
    ledger: PathBuf,
    source: Source,
    /// Lock files at the last listing, and those that were created and removed since.
    locks: HashSet<OsString>,
}

impl Folder {
    /// Watches the folder with a new inotify instance, if one is available.
    pub(in crate::tracker) fn watched(ledger: &Path) -> Self {
        let source = inotify_on(ledger).unwrap_or_else(|error| {
            warn(ledger, error);
            Source::Listed { tried: Instant::now() }
        });
        Self { ledger: ledger.to_owned(), source, locks: HashSet::new() }
    }

    /// Reads the names of changed files from a pipe, each terminated by a NUL; an empty name means
    /// that names may be missing.
    pub(in crate::tracker) fn reported(ledger: &Path, pipe: OwnedFd) -> Self {
        let source = Source::Names { pipe, rest: Vec::new() };
        Self { ledger: ledger.to_owned(), source, locks: HashSet::new() }
    }

    /// Returns the descriptor to poll, if there is one.
    pub(in crate::tracker) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Inotify { watch, .. } => Some(watch.as_fd()),
            Source::Names { pipe, .. } => Some(pipe.as_fd()),
            Source::Listed { .. } => None,
        }
    }

    /// Returns whether the folder must be listed, because no events are reported.
    pub(in crate::tracker) fn is_listed(&self) -> bool {
        matches!(self.source, Source::Listed { .. })
    }

    /// Returns to inotify if it is available by now, and follows the folder's name to another
    /// folder. Must be called before the checks, so that changes after a check are reported.
    pub(in crate::tracker) fn refresh(&mut self) {
        let is_due = match &self.source {
            Source::Inotify { of, .. } => *of != id_of(folder_of(&self.ledger)),
            Source::Names { .. } => false,
            Source::Listed { tried } => tried.elapsed() >= TRY_AGAIN,
        };
        if !is_due {
            return;
        }
        let was_listed = self.is_listed();
        self.source = match inotify_on(&self.ledger) {
            Ok(source) => {
                if was_listed {
                    let folder = folder_of(&self.ledger).display();
                    tracing::info!("inotify is available again for `{folder}`");
                }
                source
            }
            Err(error) => {
                if !was_listed {
                    warn(&self.ledger, error);
                }
                Source::Listed { tried: Instant::now() }
            }
        };
    }

    /// Returns lock files that did not exist at the last listing.
    pub(in crate::tracker) fn list(&mut self) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(folder_of(&self.ledger)) else { return Vec::new() };
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        let locks: HashSet<OsString> =
            names.filter(|name| is_lock_name(&self.ledger, name)).collect();
        let new = locks.difference(&self.locks).cloned().collect();
        self.locks = locks;
        new
    }

    /// Returns the changes, without waiting. Files that do not concern the ledger, such as an
    /// export, are left out.
    pub(in crate::tracker) fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut ended = false;
        match &mut self.source {
            Source::Inotify { watch, of } => watch.read(|kind, name| match kind {
                Kind::Closed => {
                    let is_lock = is_lock_name(&self.ledger, name);
                    changes.extend(is_lock.then_some(Change::LockClosed));
                }
                Kind::Created | Kind::Unwatched | Kind::Other => {
                    if kind == Kind::Unwatched {
                        *of = None;
                    }
                    changes.extend(change(&self.ledger, name, kind == Kind::Created));
                }
            }),
            Source::Names { pipe, rest } => {
                ended = read_names(pipe, rest, |name| {
                    let path = folder_of(&self.ledger).join(name);
                    let is_made = path.symlink_metadata().is_ok();
                    changes.extend(change(&self.ledger, name, is_made));
                });
            }
            Source::Listed { .. } => {}
        }
        if ended {
            // The other end is closed: from now on the folder must be watched here.
            self.source = Source::Listed { tried: Instant::now() };
        }
        for change in &changes {
            match change {
                Change::LockMade(name) => drop(self.locks.insert(name.clone())),
                Change::LockRemoved(name) => drop(self.locks.remove(name)),
                Change::LockClosed | Change::Other => {}
            }
        }
        changes
    }
}

fn change(ledger: &Path, name: &OsStr, is_made: bool) -> Option<Change> {
    if is_lock_name(ledger, name) {
        let name = name.to_owned();
        return Some(if is_made { Change::LockMade(name) } else { Change::LockRemoved(name) });
    }
    // An event without a name concerns the folder, or means that events were lost.
    (name.is_empty() || ledger.file_name() == Some(name)).then_some(Change::Other)
}

/// Reads names from a pipe, without waiting; returns `true` once its other end is closed.
fn read_names(pipe: &OwnedFd, rest: &mut Vec<u8>, mut take: impl FnMut(&OsStr)) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return true,
            Ok(read) => {
                for &byte in &buffer[..read] {
                    if byte == 0 {
                        take(OsStr::from_bytes(rest));
                        rest.clear();
                    } else if rest.len() <= LONGEST_NAME {
                        rest.push(byte);
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}

fn inotify_on(ledger: &Path) -> Result<Source, Errno> {
    let folder = folder_of(ledger);
    // Read before the watch is created: if the folder is swapped in between, the next check finds
    // another one.
    let of = id_of(folder);
    Ok(Source::Inotify { watch: FolderWatch::new(folder, Interest::Names)?, of })
}

fn folder_of(ledger: &Path) -> &Path {
    let folder = ledger.parent().unwrap_or(ledger);
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn id_of(folder: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(folder).ok().map(|folder| (folder.dev(), folder.ino()))
}

fn warn(ledger: &Path, error: Errno) {
    let folder = folder_of(ledger).display();
    let limit = match error {
        Errno::MFILE => ": `sysctl fs.inotify.max_user_instances` is reached",
        Errno::NOSPC => ": `sysctl fs.inotify.max_user_watches` is reached",
        _ => "",
    };
    tracing::warn!(
        "failed to watch `{folder}` with inotify: {error}{limit}; listing it each second until inotify is available"
    );
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = folder.path().join("x.db");
        (folder, ledger)
    }

    fn lock(ledger: &Path, name: &str) -> OsString {
        let name = format!("x.db-instance-{name}.lock");
        std::fs::write(ledger.with_file_name(&name), "").expect("a file");
        name.into()
    }

    #[test]
    fn inotify_reports_locks_and_the_ledger_and_nothing_else() {
        let (folder, ledger) = place();
        let mut watched = Folder::watched(&ledger);
        assert!(!watched.is_listed());
        std::fs::write(folder.path().join("export.json"), "[]").expect("a file");
        assert_eq!(watched.changes(), []);
        let made = lock(&ledger, "a");
        std::fs::remove_file(ledger.with_file_name(&made)).expect("removed");
        std::fs::write(&ledger, "").expect("a file");
        let expected = [
            Change::LockMade(made.clone()),
            Change::LockClosed,
            Change::LockRemoved(made),
            Change::Other,
        ];
        assert_eq!(watched.changes(), expected);
    }

    #[test]
    fn a_folder_that_was_removed_and_created_again_is_watched_again() {
        let (folder, _) = place();
        let inner = folder.path().join("inner");
        let ledger = inner.join("x.db");
        std::fs::create_dir(&inner).expect("a folder");
        let mut watched = Folder::watched(&ledger);
        for round in ["a", "b"] {
            std::fs::remove_dir_all(&inner).expect("removed");
            watched.refresh();
            assert!(watched.changes().iter().all(|change| *change == Change::Other));
            std::fs::create_dir(&inner).expect("a folder");
            // As after ten seconds.
            if let Source::Listed { tried } = &mut watched.source {
                *tried = tried.checked_sub(TRY_AGAIN).expect("a time");
            }
            watched.refresh();
            assert!(!watched.is_listed(), "{round}");
            let made = lock(&ledger, round);
            assert!(watched.changes().contains(&Change::LockMade(made)), "{round}");
        }
    }

    #[test]
    fn a_listing_finds_each_lock_once_even_if_it_is_created_again() {
        let (_folder, ledger) = place();
        let made = lock(&ledger, "a");
        let mut watched = Folder::watched(&ledger);
        assert_eq!(watched.list(), std::slice::from_ref(&made));
        assert!(watched.list().is_empty());
        std::fs::remove_file(ledger.with_file_name(&made)).expect("removed");
        assert!(watched.list().is_empty());
        lock(&ledger, "a");
        assert_eq!(watched.list(), [made]);
    }

    #[test]
    fn names_arrive_by_pipe_in_pieces_and_an_endless_one_uses_no_memory() {
        let (_folder, ledger) = place();
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let flags = rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&reader, flags).expect("a flag");
        let mut reported = Folder::reported(&ledger, reader.into());
        let made = lock(&ledger, "a");
        writer.write_all(b"other.json\0x.db-inst").expect("written");
        assert_eq!(reported.changes(), []);
        writer.write_all(b"ance-a.lock\0x.db-instance-gone.lock\0\0").expect("written");
        let gone = OsString::from("x.db-instance-gone.lock");
        let expected = [Change::LockMade(made), Change::LockRemoved(gone), Change::Other];
        assert_eq!(reported.changes(), expected);
        for _ in 0..256 {
            writer.write_all(&[b'x'; 4096]).expect("written");
            assert_eq!(reported.changes(), []);
        }
        assert!(matches!(&reported.source, Source::Names { rest, .. } if rest.len() <= 256));
        drop(writer);
        assert_eq!(reported.changes(), []);
        assert!(reported.is_listed(), "its other end is closed");
    }
}
