//! Determines which processes below a keeper are hosts of its ledger.
//!
//! A task may start a new host of its own ledger before the old one dies, and the new one must
//! survive. A keeper links no SQLite and reads no ledger. So each instance writes its identity into
//! its lock file once its row is committed
//! ([`HeldLock::sign`](super::super::file_lock::HeldLock::sign)), and a process is a host only if
//! it holds such a lock *and* has the identity in the file. A task that holds a file of such a
//! name, or the lock of an instance that has died, is a program like any other.

use std::{
    fs::File,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{
    identity::{Identity, Pid, PidScope},
    sys::{Pinned, Proc, file_lock::is_signed_by, snapshot::Snapshot},
};

/// Maximum size of a signature, which consists of three numbers.
const SIGNATURE: u64 = 1 << 10;

/// Returns the processes below `keeper` that are hosts of the ledger whose lock files have paths
/// that begin with `lock_prefix`.
pub(crate) fn hosts_below(
    proc: &Proc,
    here: PidScope,
    snapshot: &Snapshot,
    keeper: Pid,
    lock_prefix: &Path,
) -> Vec<Pid> {
    let below = snapshot.below(keeper).into_iter();
    below.filter(|&pid| is_host(proc, here, pid, lock_prefix)).collect()
}

fn is_host(proc: &Proc, here: PidScope, pid: Pid, prefix: &Path) -> bool {
    let is_wanted =
        |path: &Path| path.as_os_str().as_bytes().starts_with(prefix.as_os_str().as_bytes());
    !signed_locks(proc, here, pid, is_wanted).is_empty()
}

/// Returns the lock files with a wanted path that a process holds and that contain its identity.
pub(crate) fn signed_locks(
    proc: &Proc,
    here: PidScope,
    pid: Pid,
    is_wanted: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut identity = None;
    let mut signed = |descriptor: std::fs::DirEntry| {
        let target = std::fs::read_link(descriptor.path()).ok().filter(|path| is_wanted(path))?;
        let number = descriptor.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.display());
        // Finds the line `lock:` of proc_pid_fdinfo(5).
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let holds = info.lines().any(|line| line.starts_with("lock:") && line.contains("WRITE"));
        let is_signed = holds && {
            let pinned = || Pinned::open(proc, here, pid).ok().flatten();
            identity = identity.or_else(|| pinned().map(|pinned| pinned.identity));
            identity.is_some_and(|identity| names(&descriptor.path(), &identity))
        };
        is_signed.then_some(target)
    };
    descriptors.filter_map(Result::ok).filter_map(&mut signed).collect()
}

/// Reports whether the open file contains the identity of the process.
fn names(file: &Path, identity: &Identity) -> bool {
    let is_special = |file: std::fs::Metadata| {
        let kind = file.file_type();
        kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
    };
    // Opening a special file may have side effects.
    if std::fs::metadata(file).map_or(true, is_special) {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(file, flags, Mode::empty()).map(File::from);
    let mut text = String::new();
    opened.is_ok_and(|file| file.take(SIGNATURE).read_to_string(&mut text).is_ok())
        && is_signed_by(&text, identity)
}
