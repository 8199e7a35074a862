//! Where the ledger really is, and whether it may be trusted.
//!
//! Rows of a ledger make us send signals, so whoever can write it can aim us. Only its owner may be able to: the file is
//! ours, no one else can write it, and no one else can put another file in its place. root may open another's ledger;
//! the tracker then acts as that user only.
//!
//! Everything here looks by path and never opens the ledger (see [`super`] on POSIX locks), and it writes nothing.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::geteuid,
};

use super::filesystem;
use crate::error::{Error, Kind, Result};

/// Others that may write: the group and everyone.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Only the owner of a file may replace it in such a folder (chmod(2), `S_ISVTX`).
const STICKY: u32 = 0o1000;
/// Files that SQLite and the setup keep beside the ledger.
const COMPANIONS: [&str; 4] = ["-wal", "-shm", "-journal", "-setup.lock"];

/// A ledger's real path, and the file that is there.
#[derive(Debug)]
pub(super) struct Located {
    /// Absolute, without symlinks.
    pub(super) path: PathBuf,
    /// `None` where there is no file yet.
    pub(super) found: Option<Found>,
}

/// A file as it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Device and inode.
    pub(super) file: (u64, u64),
    pub(super) owner: u32,
    pub(super) len: u64,
    mode: u32,
}

impl Located {
    /// Resolves `path`; it is an error when it cannot be a ledger, whoever owns it.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let located = look(path)?;
        filesystem::check_local(located.folder())?;
        Ok(located)
    }

    /// Owner of the ledger: of the file, or whoever is about to create it.
    pub(super) fn owner(&self) -> u32 {
        self.found.map_or_else(me, |found| found.owner)
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Refuses a ledger that somebody else could have written, or that we cannot write.
    pub(super) fn check_trusted(&self) -> Result<()> {
        self.check_owner()?;
        self.check_folders()?;
        self.check_companions()?;
        self.check_writable()
    }

    fn check_owner(&self) -> Result<()> {
        let Some(found) = self.found else { return Ok(()) };
        let shown = self.path.display();
        if found.owner != me() && me() != 0 {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{shown}` belongs to uid {}, and this is uid {}: \
                     run as its owner, or choose another ledger",
                    found.owner,
                    me()
                ),
            ));
        }
        if found.mode & WRITABLE_BY_OTHERS != 0 {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{shown}` can be written by others (mode {:o}): \
                     check its rows, then run `chmod go-w` on it",
                    found.mode & 0o7777
                ),
            ));
        }
        Ok(())
    }

    /// From the ledger's folder up to the root: nobody else may be able to put another file in its place.
    fn check_folders(&self) -> Result<()> {
        self.path.ancestors().skip(1).try_for_each(|folder| {
            let shown = folder.display();
            let seen = fs::metadata(folder)
                .map_err(|e| Error::os(format!("failed to look at the folder `{shown}`"), e))?;
            if ![0, me(), self.owner()].contains(&seen.uid()) && !is_unmapped(seen.uid()) {
                return Err(self.replaceable(&format!(
                    "the folder `{shown}` belongs to uid {}",
                    seen.uid()
                )));
            }
            if seen.mode() & WRITABLE_BY_OTHERS != 0 && seen.mode() & STICKY == 0 {
                return Err(self.replaceable(&format!(
                    "the folder `{shown}` can be written by others (mode {:o}), run `chmod go-w` on it",
                    seen.mode() & 0o7777
                )));
            }
            Ok(())
        })
    }

    fn replaceable(&self, why: &str) -> Error {
        let message = format!(
            "the ledger `{}` could be replaced: {why}, or choose another folder",
            self.path.display()
        );
        Error::new(Kind::Denied, message)
    }

    /// In a sticky folder a stranger can leave a `-wal` for us to read. Checked before SQLite opens it and again after,
    /// when nobody can replace it any more.
    pub(super) fn check_companions(&self) -> Result<()> {
        let shared =
            fs::metadata(self.folder()).is_ok_and(|folder| folder.mode() & WRITABLE_BY_OTHERS != 0);
        COMPANIONS.iter().try_for_each(|suffix| {
            let path = beside(&self.path, suffix);
            let shown = path.display();
            let seen = match fs::symlink_metadata(&path) {
                Ok(seen) => seen,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(Error::os(format!("failed to look at `{shown}`"), e)),
            };
            let ours = seen.uid() == self.owner();
            let plain = seen.is_file() && seen.mode() & WRITABLE_BY_OTHERS == 0;
            // Two names for one file: a backup made of links, or a stranger's way to have root write elsewhere.
            let linked = seen.nlink() > 1 && (shared || !ours);
            if plain && !linked && (ours || seen.uid() == 0) {
                return Ok(());
            }
            Err(Error::new(
                Kind::Denied,
                format!(
                    "`{shown}` is not a plain file of the ledger's owner (uid {}, mode {:o}): \
                     find out who made it, then remove it",
                    seen.uid(),
                    seen.mode()
                ),
            ))
        })
    }

    fn check_writable(&self) -> Result<()> {
        if !may_write(self.folder()) {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the folder of the ledger `{}` cannot be written by uid {}: \
                     WAL keeps its files there, choose a folder that can be",
                    self.path.display(),
                    me()
                ),
            ));
        }
        // An empty file is one that a crash left between its creation and its mode; the setup gives it the mode.
        if self.found.is_some_and(|found| found.len > 0) && !may_write(&self.path) {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{}` cannot be written by uid {}: check its mode",
                    self.path.display(),
                    me()
                ),
            ));
        }
        Ok(())
    }
}

/// `path` with `suffix` after its last character.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Whether this process may write there, as the kernel sees it: mode, owner, and a read-only mount (faccessat2(2)).
pub(super) fn may_write(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn me() -> u32 {
    geteuid().as_raw()
}

/// Whether this is the number by which a user namespace shows every owner that it does not map (`user_namespaces(7)`).
///
/// A sandbox with one user in it shows root's `/` and `/tmp` so, and refusing them would leave no place for a ledger. That
/// a stranger's folder looks the same there is little: the file in it must still be ours.
fn is_unmapped(uid: u32) -> bool {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let is_overflow = overflow.is_ok_and(|number| number.trim().parse() == Ok(uid));
    is_overflow && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps(&map, uid))
}

/// Whether a line of `/proc/PID/uid_map`, first number inside, first outside, and how many, has the number inside.
fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let (Some(Ok(first)), Some(Ok(count))) = (first, count) else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

fn look(path: &Path) -> Result<Located> {
    let Some(name) = path.file_name() else {
        let message = format!("`{}` names no file: a ledger is a file", path.display());
        return Err(Error::invalid(message));
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|e| {
        let message = format!(
            "failed to find the folder `{}` of the ledger: create it first",
            folder.display()
        );
        missing_or(e, message)
    })?;
    let path = folder.join(name);
    match fs::symlink_metadata(&path) {
        Ok(seen) if seen.is_symlink() => follow(&path, &seen),
        Ok(seen) => regular(path, &seen),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Located { path, found: None }),
        Err(e) => Err(Error::os(format!("failed to look at the ledger `{}`", path.display()), e)),
    }
}

/// A symlink of our own, or of root's, to a file that exists. The ledger's other files stand beside the real one.
fn follow(link: &Path, seen: &Metadata) -> Result<Located> {
    let shown = link.display();
    if ![0, me()].contains(&seen.uid()) {
        let message = format!(
            "the ledger `{shown}` is a symlink of uid {}: name the file itself",
            seen.uid()
        );
        return Err(Error::new(Kind::Denied, message));
    }
    let path = link.canonicalize().map_err(|e| {
        missing_or(e, format!("the ledger `{shown}` is a symlink that leads nowhere: remove it"))
    })?;
    let seen = fs::symlink_metadata(&path)
        .map_err(|e| Error::os(format!("failed to look at the ledger `{}`", path.display()), e))?;
    regular(path, &seen)
}

fn regular(path: PathBuf, seen: &Metadata) -> Result<Located> {
    let kind = seen.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a device",
        };
        let message = format!("`{}` is {what}: a ledger is a plain file", path.display());
        return Err(Error::new(Kind::NotALedger, message));
    }
    let found = Found {
        file: (seen.dev(), seen.ino()),
        owner: seen.uid(),
        len: seen.len(),
        mode: seen.mode(),
    };
    Ok(Located { path, found: Some(found) })
}

fn missing_or(error: std::io::Error, message: String) -> Error {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, Some(errno)) => Error::new(Kind::NotFound, message).with_errno(errno),
        _ => Error::os(message, error),
    }
}

#[cfg(test)]
mod tests {
    use super::maps;

    #[test]
    fn a_map_tells_which_users_a_namespace_has() {
        let whole = "         0          0 4294967295\n";
        assert!(maps(whole, 0) && maps(whole, 65_534));
        let one = "      1000       1000          1\n";
        assert!(maps(one, 1000) && !maps(one, 0) && !maps(one, 1001) && !maps(one, 65_534));
        let container = "0 1000 1\n1 100000 65536\n";
        assert!(maps(container, 65_534) && maps(container, 65_536) && !maps(container, 65_537));
        assert!(!maps("", 0) && !maps("nonsense\n", 0));
    }
}
