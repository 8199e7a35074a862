//! Lock files: how the kernel tells that an instance is alive.
//!
//! flock(2) belongs to the open file: the kernel drops it when the last descriptor is closed, so it outlives no crash,
//! and it holds across PID namespaces. A child between clone and exec has copies of its host's descriptors, so a lock may
//! outlive its host by the microseconds that such a child takes to notice; callers poll.

use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, fchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use crate::error::{Error, Kind, Result};

/// A lock that is held; closing it drops it.
#[derive(Debug)]
pub(crate) struct HeldLock {
    file: File,
    path: PathBuf,
}

/// What a look at somebody's lock file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockState {
    /// Its holder lives.
    Held,
    /// Nobody holds it.
    Free,
    /// The file is not there: the lock says nothing.
    Missing,
}

impl HeldLock {
    /// Creates the file, which must not exist, and locks it; it belongs to `owner`.
    pub(crate) fn create(path: &Path, owner: u32) -> Result<Self> {
        let failed = |error: Errno| {
            Error::os(format!("failed to create the lock `{}`", path.display()), error)
        };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?);
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
        if rustix::process::geteuid().as_raw() != owner {
            fchown(&file, Some(owner), None).map_err(|error| {
                Error::os(format!("failed to give `{}` to uid {owner}", path.display()), error)
            })?;
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Removes the file, then drops the lock.
    pub(crate) fn remove(self) {
        // A file that stays behind is free, and its instance is recorded as stopped: nothing depends on it.
        drop(std::fs::remove_file(&self.path));
        drop(self.file);
    }
}

/// Looks whether somebody holds the lock at `path`.
///
/// A shared lock is tried, so that two who look do not take each other for the holder.
pub(crate) fn probe(path: &Path) -> Result<LockState> {
    let failed =
        |error: Errno| Error::os(format!("failed to look at the lock `{}`", path.display()), error);
    let file: OwnedFd = match rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(LockState::Missing),
        Err(error) => return Err(failed(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(LockState::Free),
        Err(Errno::AGAIN) => Ok(LockState::Held),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the lock file of an instance that is recorded as dead, if nobody holds it.
pub(crate) fn discard(path: &Path) {
    if matches!(probe(path), Ok(LockState::Free)) {
        drop(std::fs::remove_file(path));
    }
}

/// Whether locks work beside `path`: takes and drops one, leaves nothing.
pub(crate) fn usable(path: &Path) -> Result<()> {
    let owner = std::fs::metadata(path.parent().unwrap_or(path)).map_or(0, |folder| folder.uid());
    let own = rustix::process::geteuid().as_raw();
    let lock = HeldLock::create(path, if own == 0 { owner } else { own })?;
    let state = probe(path);
    lock.remove();
    match state? {
        LockState::Held => Ok(()),
        LockState::Free | LockState::Missing => Err(Error::new(
            Kind::Unsupported,
            format!("a lock at `{}` does not hold", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_then_free_then_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        assert_eq!(probe(&path).expect("a look"), LockState::Missing);
        let lock = HeldLock::create(&path, rustix::process::geteuid().as_raw()).expect("created");
        assert_eq!(probe(&path).expect("a look"), LockState::Held);
        drop(lock);
        assert_eq!(probe(&path).expect("a look"), LockState::Free);
        discard(&path);
        assert_eq!(probe(&path).expect("a look"), LockState::Missing);
    }

    #[test]
    fn a_lock_is_never_made_through_a_symlink() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).expect("a link");
        assert!(HeldLock::create(&path, 0).is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }
}
