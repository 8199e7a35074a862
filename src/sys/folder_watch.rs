//! Changes in a folder, as inotify(7) reports them.

use std::{
    ffi::OsStr,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::{fs::inotify, io::Errno};

/// The changes that are reported, besides those of the folder itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interest {
    /// Files that are created, removed, renamed, or closed after they were open for writing.
    Names,
    /// Files that are written, created or removed.
    Writes,
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file was created, or renamed to this name.
    Created,
    /// A file that was open for writing was closed.
    Closed,
    /// The folder is not watched any more: it was removed.
    Unwatched,
    /// Any other change, or the loss of events.
    Other,
}

/// An inotify instance that watches one folder.
#[derive(Clone, Debug)]
pub(crate) struct FolderWatch(Arc<OwnedFd>);

impl FolderWatch {
    /// # Errors
    ///
    /// `EMFILE` if the user has no inotify instance left, `ENOSPC` if the user has no watch left.
    pub(crate) fn new(folder: &Path, interest: Interest) -> Result<Self, Errno> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes = match interest {
            Interest::Names => {
                inotify::WatchFlags::CLOSE_WRITE
                    | inotify::WatchFlags::MOVED_TO
                    | inotify::WatchFlags::MOVED_FROM
            }
            Interest::Writes => inotify::WatchFlags::MODIFY,
        };
        let always = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, folder, changes | always)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Calls `take` for each change that has been reported, without waiting. The name is empty for
    /// a change of the folder itself, and if events were lost.
    pub(crate) fn read(&self, mut take: impl FnMut(Kind, &OsStr)) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.0.as_fd(), &mut buffer);
        while let Ok(event) = events.next() {
            let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
            let created = inotify::ReadFlags::CREATE | inotify::ReadFlags::MOVED_TO;
            let kind = match event.events() {
                flags if flags.contains(inotify::ReadFlags::CLOSE_WRITE) => Kind::Closed,
                flags if flags.intersects(created) => Kind::Created,
                flags if flags.contains(inotify::ReadFlags::IGNORED) => Kind::Unwatched,
                _ => Kind::Other,
            };
            take(kind, OsStr::from_bytes(name));
        }
    }
}

#[cfg(feature = "tokio")]
impl FolderWatch {
    /// Returns the descriptor that is readable after a change.
    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
