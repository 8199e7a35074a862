//! Opens files at paths that another user may control, as they are or not at all.

use std::{
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

/// Identifies a file as long as it is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Reports whether `path` itself, not what it may point to, is this file.
    pub(crate) fn is_at(self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|found| Self::of(&found) == self)
    }
}

/// Opens the file at `path` itself: no symlink is followed, no FIFO or device is waited for, no
/// terminal is acquired.
pub(crate) fn open_as_is(path: &Path, access: OFlags) -> Result<File, Errno> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// Takes an exclusive `flock` without waiting; returns `false` if it is held elsewhere.
pub(crate) fn try_flock(file: &File) -> Result<bool, Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}
