//! One inotify instance for the folders of all ledgers of the supervisor's own user.
//!
//! Instances are scarce (`fs.inotify.max_user_instances`, 128 for each user by default). So the
//! supervisor has one, and its workers get copies of it to add their folders: the worker looks up
//! the path, which may hang, and the supervisor only reads what has happened, identified by its
//! watch descriptor. A worker drops its copy before it becomes another user; and a folder that
//! another user may write is not watched by root's instance, since that user could fill the queue
//! for all ledgers.

use std::{
    ffi::{CStr, OsStr, OsString},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{fs::inotify, io::Errno};

use crate::output::to_stderr;

/// Interval of new attempts while no instance is available.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Maximum number of events that are read in one turn; the kernel keeps the others.
const EVENTS: usize = 4096;

/// A file was created or removed in the folder of this watch; without a name, everything there has
/// to be checked.
#[derive(Debug)]
pub(super) struct FolderEvent {
    /// `None` if events were lost: it may have been any watch.
    pub(super) watch: Option<i32>,
    pub(super) name: Option<OsString>,
}

#[derive(Debug)]
pub(super) struct FolderEvents {
    instance: Result<OwnedFd, Errno>,
    tried: Instant,
    /// Whether it was reported that folders are checked each second instead.
    has_warned: bool,
}

impl FolderEvents {
    pub(super) fn new() -> Self {
        let (instance, tried) = (instance(), Instant::now());
        let mut events = Self { instance, tried, has_warned: false };
        if let Err(error) = events.instance {
            events.warn(error);
        }
        events
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.instance.as_ref().ok().map(AsFd::as_fd)
    }

    /// Returns a copy for a worker.
    pub(super) fn copy(&self) -> Option<OwnedFd> {
        self.fd()?.try_clone_to_owned().ok()
    }

    /// Returns whether workers without a watch should try again now.
    pub(super) fn is_to_be_tried(&mut self) -> bool {
        if self.tried.elapsed() < TRY_AGAIN {
            return false;
        }
        self.tried = Instant::now();
        if self.instance.is_err() {
            self.instance = instance();
        }
        self.instance.is_ok()
    }

    /// Reports, once, that folders are checked each second.
    pub(super) fn warn(&mut self, error: Errno) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        let limit = match error {
            Errno::MFILE => " (`sysctl fs.inotify.max_user_instances` is reached)",
            Errno::NOSPC => " (`sysctl fs.inotify.max_user_watches` is reached)",
            _ => "",
        };
        to_stderr(&format!(
            "procledger: inotify cannot be used: {error}{limit}; folders are checked each second until it can"
        ));
    }

    /// Reports that every folder has its watch again.
    pub(super) fn recover(&mut self) {
        if self.instance.is_ok() && std::mem::take(&mut self.has_warned) {
            to_stderr("procledger: inotify can be used again");
        }
    }

    /// Reads some of the events, without waiting.
    pub(super) fn read(&self) -> Vec<FolderEvent> {
        let mut events = Vec::new();
        let Some(fd) = self.fd() else { return events };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while events.len() < EVENTS
            && let Ok(event) = reader.next()
        {
            // Only the closing of a lock counts, since an exec closes it. Every user of a ledger
            // closes the ledger as well.
            let closed = event.events().contains(inotify::ReadFlags::CLOSE_WRITE);
            if closed && !event.file_name().is_some_and(|name| is_lock_name(name.to_bytes())) {
                continue;
            }
            let is_lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().map(CStr::to_bytes);
            events.push(FolderEvent {
                watch: (!is_lost).then(|| event.wd()),
                name: name.map(|name| OsStr::from_bytes(name).to_owned()),
            });
        }
        events
    }
}

/// Returns whether a file may be the lock of an instance of some ledger.
fn is_lock_name(name: &[u8]) -> bool {
    name.ends_with(b".lock")
}

fn instance() -> Result<OwnedFd, Errno> {
    inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
}

/// Adds a folder; all workers that add the same folder get the same watch.
pub(super) fn add(instance: &OwnedFd, folder: &Path) -> Result<i32, Errno> {
    let events = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::ATTRIB
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(instance, folder, events)
}
