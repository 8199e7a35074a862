//! Lock files: how the kernel tells that an instance is alive.
//!
//! flock(2) belongs to the open file: the kernel drops it when the last descriptor is closed, so it outlives no crash,
//! and it holds across PID namespaces. A child between clone and exec has copies of its host's descriptors, so a lock may
//! outlive its host by the microseconds that such a child takes to notice; callers poll.

use std::{
    fs::{File, Metadata},
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

/// How often a new lock file may be removed before it is locked; once is rare, but where others tidy up all the time on a
/// starved machine ten times in a row were seen.
const ATTEMPTS: u32 = 1000;

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
    ///
    /// Between its creation and its lock a file looks like one that a dead instance has left: who looks at it has it locked
    /// for microseconds, and who removes what is left may have removed it.
    pub(crate) fn create(path: &Path, owner: u32) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let file = create_locked(path).map_err(|error| {
                Error::os(format!("failed to create the lock `{}`", path.display()), error)
            })?;
            if !is_at(&file, path) {
                continue;
            }
            if rustix::process::geteuid().as_raw() != owner {
                fchown(&file, Some(owner), None).map_err(|error| {
                    Error::os(format!("failed to give `{}` to uid {owner}", path.display()), error)
                })?;
            }
            return Ok(Self { file, path: path.to_owned() });
        }
        Err(Error::new(
            Kind::Busy,
            format!("the lock `{}` is removed all the time: try again", path.display()),
        ))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Removes the file, then drops the lock.
    pub(crate) fn remove(self) {
        // A file that stays behind is free, and its instance is recorded as stopped: nothing depends on it.
        drop(std::fs::remove_file(&self.path));
        drop(self.file);
    }
}

fn create_locked(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

/// Whether the path still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: &Metadata| (found.dev(), found.ino());
    let opened = file.metadata().as_ref().map(id).ok();
    opened.is_some() && path.symlink_metadata().as_ref().map(id).ok() == opened
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

/// Removes a lock file that no instance is judged by any more, if nobody holds it.
///
/// It is locked meanwhile: whoever has just created it learns that it is gone, and makes another.
pub(crate) fn discard(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else { return };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, path) {
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

    /// Lets the others go, also when a test fails.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_lock_can_be_made_while_others_look_and_tidy_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let tidy_up = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                probe(&path).expect("a look");
                discard(&path);
            }
        };
        std::thread::scope(|scope| {
            let _done = Done(&done);
            scope.spawn(tidy_up);
            scope.spawn(tidy_up);
            for _ in 0..2_000 {
                let lock =
                    HeldLock::create(&path, rustix::process::geteuid().as_raw()).expect("created");
                assert!(path.exists(), "what is held is not removed");
                lock.remove();
            }
        });
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
