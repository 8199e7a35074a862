//! Writes the file in place if it cannot be replaced by a rename.
//!
//! A file that is bind-mounted into a container is a mount point, and rename(2) onto one fails with
//! EBUSY; in a folder that cannot be written, or on a read-only file system that such a file is
//! mounted into, not even a temporary file can be created. The file itself can still be written.
//!
//! A reader may then see a part of the new list. Countermeasures:
//!
//! - the new list is written by one pwrite(2), padded with spaces to the length of the old one, so
//!   that what is read before the file is truncated is valid JSON as well;
//! - the file is locked meanwhile: a reader that takes flock(2) (`LOCK_SH`) sees only whole lists.
//!   The writer waits for it, but for a second at most, since any user that can read the file can
//!   lock it;
//! - space is reserved before the first byte is written: on a full disk the old list stays. (A file
//!   system that copies on write may still run out in the middle.)
//!
//! Only a regular file of the ledger's owner with no other name is written to. This is checked on
//! the opened file: no symlink is followed and no FIFO is waited for. A mount point may belong to
//! another user, as with the user IDs of a container, provided that only root or the owner can have
//! mounted it there.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};

use crate::sys::{
    filesystem::{is_mount_point, reserve},
    plain_file::{open_as_is, try_flock},
};

/// How long to wait for a reader that has locked the file. Reading a list takes milliseconds.
const READERS: Duration = Duration::from_secs(1);
const READERS_POLL: Duration = Duration::from_millis(1);
/// An old list that is longer than the new one by more than this is truncated without being
/// overwritten with spaces first.
const PADDING_MAX: u64 = 1 << 20;

/// Reports whether an error of the rename, or of what comes before it, concerns the place and not
/// the list.
pub(super) fn is_about_the_place(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::BUSY | Errno::XDEV | Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// Opens the existing file for writing. If we may not write to it, returns the reason.
pub(super) fn open(path: &Path, owner: u32) -> Result<File, Refusal> {
    let file = open_as_is(path, OFlags::WRONLY).map_err(Refusal::Os)?;
    let found = file.metadata().map_err(|_| Refusal::Os(Errno::IO))?;
    match distrust(path, &found, owner) {
        Some(why) => Err(Refusal::NotOurs(why)),
        None => Ok(file),
    }
}

/// Why the file is not written in place.
#[derive(Debug)]
pub(super) enum Refusal {
    Os(Errno),
    NotOurs(String),
}

fn distrust(path: &Path, found: &Metadata, owner: u32) -> Option<String> {
    if !found.is_file() {
        return Some("is not a regular file".to_owned());
    }
    let mounted = is_mount_point(path);
    if found.uid() != owner && !(mounted && only_we_mount_in(path, owner)) {
        return Some(format!("belongs to uid {}, not to uid {owner}", found.uid()));
    }
    // Another user may have given a file of ours this name, by link(2).
    if found.nlink() > 1 && !mounted {
        return Some("has other names (hard links)".to_owned());
    }
    None
}

/// Reports whether the folder belongs to root or the owner, and other users cannot write to it: an
/// ordinary user can mount (fusermount(1)) only onto a place that it may write to.
fn only_we_mount_in(path: &Path, owner: u32) -> bool {
    let folder = path.parent().and_then(|folder| folder.symlink_metadata().ok());
    folder.is_some_and(|folder| {
        [0, owner].contains(&folder.uid()) && folder.permissions().mode() & 0o022 == 0
    })
}

/// Writes `text` into the file, locking it unless the caller has already locked it.
pub(super) fn write(file: &File, text: &[u8], is_locked: bool) -> io::Result<()> {
    let locked = !is_locked && lock(file);
    let answer = put(file, text);
    if locked {
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
    }
    answer
}

fn lock(file: &File) -> bool {
    let deadline = Instant::now() + READERS;
    loop {
        match try_flock(file) {
            Ok(false) if Instant::now() < deadline => thread::sleep(READERS_POLL),
            answer => return answer == Ok(true),
        }
    }
}

fn put(file: &File, text: &[u8]) -> io::Result<()> {
    let (new, old) = (text.len() as u64, file.metadata()?.len());
    // 1. Reserve space for all of it. If the file system cannot, the write fails instead.
    reserve(file, new)?;
    // 2. Write the list, over all of the old one.
    let padding = old.saturating_sub(new);
    if padding == 0 || padding > PADDING_MAX {
        file.write_all_at(text, 0)?;
    } else {
        let mut padded = text.to_vec();
        padded.resize(usize::try_from(old).unwrap_or(text.len()), b' ');
        file.write_all_at(&padded, 0)?;
    }
    // 3. Truncate the file.
    if old > new { file.set_len(new) } else { Ok(()) }
}
