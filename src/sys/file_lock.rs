//! Lock files, by which the kernel shows that an instance is alive.
//!
//! A lock of flock(2) belongs to the open file: the kernel releases it when the last descriptor is
//! closed, so it does not outlive a crash, and it works across PID namespaces. A child between
//! clone and exec has copies of its host's descriptors, so a lock may outlive its host by the
//! microseconds that such a child takes to notice; callers poll.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use super::{
    filesystem,
    plain_file::{FileId, open_as_is, try_flock},
};
use crate::{
    error::{Error, Kind, Result},
    identity::Identity,
};

/// How often a new lock file may be removed before it is locked. Once is rare, but ten times in a
/// row were observed on a starved machine on which other processes removed leftovers all the time.
const ATTEMPTS: u32 = 1000;

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct HeldLock {
    file: File,
    path: PathBuf,
}

/// The state of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockState {
    /// Its holder is alive.
    Held,
    /// It has no holder.
    Free,
    /// The file does not exist, so the lock proves nothing.
    Missing,
}

impl HeldLock {
    /// Creates the file, which must not exist, and locks it; it belongs to `owner`.
    ///
    /// Between its creation and its locking a file looks like one that a dead instance left. A
    /// process that probes it holds a lock on it for microseconds, and a process that removes
    /// leftovers may remove it.
    pub(crate) fn create(path: &Path, owner: u32) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let file = create_locked(path).map_err(|error| {
                let message = format!("failed to create the lock `{}`", path.display());
                filesystem::not_created(message, path.parent().unwrap_or(path), error)
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
            format!(
                "gave up locking `{}`: the file was removed {ATTEMPTS} times; try again",
                path.display()
            ),
        ))
    }

    /// Writes the identity of the instance that holds the lock into the file, below its note.
    /// Called once the instance's row is committed. A keeper, which does not read the ledger, uses
    /// the identity to distinguish a host below it from a process that merely holds such a file.
    pub(crate) fn sign(&self, identity: &Identity) -> Result<()> {
        (&self.file).write_all(signature(identity).as_bytes()).map_err(|error| {
            Error::os(format!("failed to write the lock `{}`", self.path.display()), error)
        })
    }

    /// Returns the name of the file, without its folder.
    pub(crate) fn name(&self) -> Option<String> {
        self.path.file_name()?.to_str().map(str::to_owned)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Removes the file, then releases the lock.
    pub(crate) fn remove(self) {
        // If the file cannot be removed, nothing depends on it: it is not locked, and its instance
        // is recorded as stopped.
        drop(std::fs::remove_file(&self.path));
        drop(self.file);
    }
}

/// Formats `host`, then pid, start tick and pidfd inode in one line; `-` for an inode that does not
/// identify a process.
fn signature(identity: &Identity) -> String {
    let inode = identity.pidfd_inode.map_or_else(|| "-".to_owned(), |inode| inode.to_string());
    format!("host {} {} {inode}\n", identity.pid, identity.start_tick)
}

/// Reports whether a lock file was signed by this process.
///
/// Within one boot the inode and the start tick are the same in every PID namespace; the pid is
/// not.
pub(crate) fn is_signed_by(text: &str, identity: &Identity) -> bool {
    // The signature is the last line; a note may precede it.
    let Some(line) = text.strip_suffix('\n').and_then(|text| text.lines().last()) else {
        return false;
    };
    let Some(signed) = line.strip_prefix("host ") else { return false };
    let mut words = signed.split_ascii_whitespace();
    let (pid, tick, inode) = (words.next(), words.next(), words.next());
    let same_tick = tick == Some(identity.start_tick.to_string().as_str());
    let same = match (inode.map(str::parse::<u64>), identity.pidfd_inode) {
        (Some(Ok(theirs)), Some(inode)) => theirs == inode,
        _ => pid == Some(identity.pid.to_string().as_str()),
    };
    same_tick && same && words.next().is_none()
}

fn create_locked(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

/// Opens a lock file: no symlink is followed, no FIFO or device is waited for, and anything but a
/// regular file of `owner` or of root is refused.
pub(crate) fn open_plain(path: &Path, access: OFlags, owner: u32) -> Result<File> {
    let shown = path.display();
    let refused = |what: &str| {
        Err(Error::new(
            Kind::Denied,
            format!("the lock `{shown}` is {what}: find out what created it, then remove it"),
        ))
    };
    let file = match open_as_is(path, access) {
        Ok(file) => file,
        Err(error @ Errno::NOENT) => {
            let message = format!("there is no lock `{shown}`");
            return Err(Error::new(Kind::NotFound, message).with_errno(error.raw_os_error()));
        }
        Err(Errno::LOOP) => return refused("a symlink"),
        // A socket, and a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return refused("not a regular file"),
        Err(Errno::ISDIR) => return refused("a folder"),
        Err(error) => return Err(Error::os(format!("failed to open the lock `{shown}`"), error)),
    };
    let seen = file
        .metadata()
        .map_err(|error| Error::os(format!("failed to inspect the lock `{shown}`"), error))?;
    if !seen.is_file() {
        return refused("not a regular file");
    }
    if seen.uid() != owner && seen.uid() != 0 {
        return refused(&format!("a file of uid {}, not of uid {owner}", seen.uid()));
    }
    Ok(file)
}

/// Reports whether the path still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().is_ok_and(|opened| FileId::of(&opened).is_at(path))
}

/// Determines whether the lock at `path`, a file of `owner`, is held.
pub(crate) fn probe(path: &Path, owner: u32) -> Result<LockState> {
    probe_file(path, owner).map(|(state, _)| state)
}

/// Does the same, and returns the file if the lock is held: a file that is kept open here holds no
/// lock.
///
/// A shared lock is attempted, so that two concurrent probes do not take each other for the holder.
pub(crate) fn probe_file(path: &Path, owner: u32) -> Result<(LockState, Option<File>)> {
    let file = match open_plain(path, OFlags::RDONLY, owner) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok((LockState::Missing, None)),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok((LockState::Free, None)),
        Err(Errno::AGAIN) => Ok((LockState::Held, Some(file))),
        Err(error) => {
            Err(Error::os(format!("failed to inspect the lock `{}`", path.display()), error))
        }
    }
}

/// Removes a lock file that is no longer needed for any instance, unless it is held.
///
/// The file is locked meanwhile, so that a process that has just created it detects that it is
/// gone, and creates another.
pub(crate) fn discard(path: &Path) {
    let Ok(file) = open_as_is(path, OFlags::RDONLY) else { return };
    // Anything else with this name is not one of our locks, and is not removed.
    if !file.metadata().is_ok_and(|seen| seen.is_file()) {
        return;
    }
    if try_flock(&file) == Ok(true) && is_at(&file, path) {
        drop(std::fs::remove_file(path));
    }
}

/// Checks that locks work beside `path`: creates, takes and removes one.
pub(crate) fn usable(path: &Path) -> Result<()> {
    let owner = std::fs::metadata(path.parent().unwrap_or(path)).map_or(0, |folder| folder.uid());
    let own = rustix::process::geteuid().as_raw();
    let lock = HeldLock::create(path, if own == 0 { owner } else { own })?;
    let state = probe(path, if own == 0 { owner } else { own });
    lock.remove();
    match state? {
        LockState::Held => Ok(()),
        LockState::Free | LockState::Missing => {
            Err(Error::new(Kind::Unsupported, format!("locks do not work at `{}`", path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_then_free_then_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        assert_eq!(probe(&path, own()).expect("a probe"), LockState::Missing);
        let lock = HeldLock::create(&path, rustix::process::geteuid().as_raw()).expect("created");
        assert_eq!(probe(&path, own()).expect("a probe"), LockState::Held);
        drop(lock);
        assert_eq!(probe(&path, own()).expect("a probe"), LockState::Free);
        discard(&path);
        assert_eq!(probe(&path, own()).expect("a probe"), LockState::Missing);
    }

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// Stops the other threads even if the test fails.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_lock_can_be_created_while_others_probe_and_tidy_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let tidy_up = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                probe(&path, own()).expect("a probe");
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
                assert!(path.exists(), "a held lock is not removed");
                lock.remove();
            }
        });
    }

    #[test]
    fn a_lock_is_signed_by_one_process_only() {
        let scope = crate::sys::current_pid_scope().expect("a scope");
        let pid = |number| crate::identity::Pid::new(number).expect("a pid");
        let host = Identity { scope, pid: pid(7), start_tick: 90, pidfd_inode: Some(1234) };
        let text = signature(&host);
        assert_eq!(text, "host 7 90 1234\n");
        assert!(is_signed_by(&format!("procledger instance 1\ninode 5\n{text}"), &host));
        assert!(!is_signed_by(&format!("{text}more\n"), &host));
        assert!(is_signed_by(&text, &host));
        assert!(is_signed_by(&text, &Identity { pid: pid(4007), ..host }), "in another namespace");
        assert!(!is_signed_by(&text, &Identity { pidfd_inode: Some(1235), ..host }));
        assert!(!is_signed_by(&text, &Identity { start_tick: 91, ..host }));
        let older = Identity { pidfd_inode: None, ..host };
        assert!(is_signed_by(&signature(&older), &older));
        assert!(!is_signed_by(&signature(&older), &Identity { pid: pid(8), ..older }));
        let broken =
            ["", "7", "host 7 90", "host 7 90 1234", "host 7 90 1234 5\n", "\n", "7 90 1234\n"];
        for text in broken {
            assert!(!is_signed_by(text, &Identity { pid: pid(8), ..host }), "{text:?}");
        }
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
