//! The exported file: its text and its replacement.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
    process::geteuid,
};
use tempfile::NamedTempFile;

use super::{
    in_place::{self, Refusal},
    lock::{Lock, hand_over},
};
use crate::{
    error::{Error, Kind, Result},
    model::ExportEntry,
    sys::{
        filesystem,
        fs_user::{Account, act_as},
        plain_file::{FileId, open_as_is, try_flock},
        trusted_path::{Folders, Trust, controller_of_folder},
    },
};

/// Readable by all users, as the former implementation's file was: it names tasks and pids, which
/// `ps` shows as well.
const MODE: u32 = 0o644;

/// The number of random characters at the end of a temporary file's name, after a prefix that names
/// the target.
const RANDOM: usize = 12;

/// How often a new temporary file may be removed as a leftover before it is locked; once is rare.
const ATTEMPTS: u32 = 10;

/// A trial writes as many bytes as the list has now, but at least a page, and at most 16 MiB.
const PROBE_MIN: u64 = 4096;
const PROBE_MAX: u64 = 16 << 20;

/// The sticky bit of a folder's mode: only a file's owner may replace it.
const STICKY: u32 = 0o1000;

/// Returns the text of the file: two-space indent, a final newline.
pub(crate) fn to_json(entries: &[ExportEntry]) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(entries).expect("strings and numbers serialize");
    text.push(b'\n');
    text
}

/// Replaces the file at `path` once, without the lock, for a file that a person requested.
pub(crate) fn write_once(path: &Path, entries: &[ExportEntry]) -> Result<()> {
    let target = Target::new(path, geteuid().as_raw())?;
    target.replace(to_json(entries), None).map(drop)
}

/// The expected result of writing a new list at a path.
#[derive(Debug)]
pub(crate) enum Prospect {
    /// A temporary file can be created and filled, and nothing is known that would prevent its
    /// rename. The rename itself would replace a live host's list, and is not tried.
    Replaced,
    /// No rename is possible, and the file can be opened for writing. Nothing was written.
    InPlace {
        /// Whether another file was mounted at the path.
        mounted: bool,
    },
    /// Neither is possible.
    Fails(Error),
}

/// Determines whether the export at `path` could be written by `owner`, without changing what is
/// there.
///
/// # Errors
///
/// When the folder is missing, or a folder is at the path.
pub(crate) fn prospect(path: &Path, owner: u32) -> Result<Prospect> {
    let target = Target::new(path, owner)?;
    target.act(|| {
        Lock::look(&target.lock_path(), owner)?;
        Ok(target.prospect())
    })
}

/// Reports whether not even a page is free where the file is.
fn has_no_space(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|space| space.f_bavail == 0)
}

/// The location of the file. The folder is resolved once; the last part of the path never is.
///
/// If another user controls the path and we are root, that user could change where it leads at any
/// time. So everything is done with that user's file access rights, and the file belongs to that
/// user.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    folder: PathBuf,
    prefix: OsString,
    pub(super) owner: u32,
    /// The user that controlled the path as given, which may lead through a symlink of that user.
    account: Option<Account>,
}

impl Target {
    pub(super) fn new(path: &Path, owner: u32) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            Error::invalid(format!("the export path `{}` does not name a file", path.display()))
        })?;
        let account = controller_of_folder(path).map_err(|error| no_folder(path, error))?;
        let owner = account.map_or(owner, |account| account.uid());
        act_as(account, || Self::resolve(path, name, owner, account))
    }

    fn resolve(path: &Path, name: &OsStr, owner: u32, account: Option<Account>) -> Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let uid = account.map_or_else(|| geteuid().as_raw(), |account| account.uid());
        let folders = Folders::along(parent, &Trust::of(uid)).map_err(|stop| {
            let parent = parent.display();
            stop.into_error(|| format!("the export's folder `{parent}` cannot be used: create it"))
        })?;
        let folder = folders.last().path.clone();
        let path = folder.join(name);
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(folder_in_the_way(&path));
        }
        let prefix = [b".", name.as_bytes(), b".tmp-"].concat();
        let prefix = OsStr::from_bytes(&prefix).to_owned();
        Ok(Self { path, folder, prefix, owner, account })
    }

    /// Runs `work` with the file access rights that we may use there. For root they are determined
    /// anew each time, since the folder may have been removed, and created again by another user.
    pub(super) fn act<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let account = match self.account {
            Some(account) => Some(account),
            None => controller_of_folder(&self.path).map_err(|error| self.failed(error))?,
        };
        act_as(account, work)
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    /// Reports whether anything exists at the path.
    pub(super) fn is_there(&self) -> bool {
        self.path.symlink_metadata().is_ok()
    }

    /// Acquires the right to write the file: the lock file beside it, or, where none can be created
    /// there, a lock on the file itself.
    pub(super) fn lock(&self) -> Result<Option<Lock>> {
        let beside = self.lock_path();
        let error = match Lock::acquire(&beside, self.owner) {
            Ok(lock) => return Ok(lock),
            Err(error) => error,
        };
        let place = error.raw_os_error().map(io::Error::from_raw_os_error);
        if !place.is_some_and(|error| in_place::is_about_the_place(&error))
            || beside.symlink_metadata().is_ok()
        {
            return Err(error);
        }
        match in_place::open(&self.path, self.owner) {
            Ok(file) => Lock::of_the_export(file, &self.path),
            Err(_) => Err(error),
        }
    }

    /// Puts the text at the path: a temporary file is renamed there; where that is impossible, the
    /// file is written in place. `locked` is the export, if the lock is on the export itself.
    ///
    /// There is no fsync: after a power cut none of the processes in the file is running, and the
    /// ledger shows that. An fsync would make each process start wait for the disk, for a file that
    /// is worthless after a power cut.
    pub(super) fn replace(&self, text: Vec<u8>, locked: Option<&File>) -> Result<Written> {
        self.act(|| self.replace_here(text, locked))
    }

    fn replace_here(&self, text: Vec<u8>, locked: Option<&File>) -> Result<Written> {
        let mut why = None;
        if !filesystem::is_mount_point(&self.path) {
            match self.rename_into_place(&text) {
                Ok((file, stamp)) => return Ok(Written { stamp, _file: Some(file), text }),
                Err(error) if in_place::is_about_the_place(&error) => why = Some(error),
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.write_in_place(text, locked, why)
    }

    /// Returns the new file at the path, with its stamp.
    fn rename_into_place(&self, text: &[u8]) -> io::Result<(File, Stamp)> {
        let mut temp = self.create()?;
        let stamp = self.fill(temp.as_file_mut(), text)?;
        let file = temp.persist(&self.path).map_err(|error| error.error)?;
        // The descriptor is kept but not the lock, since a reader may want to lock the file.
        let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
        Ok((file, stamp))
    }

    /// Writes the file in place. `why` is the error of the rename; `None` for a mount point, onto
    /// which no rename is tried.
    fn write_in_place(
        &self,
        text: Vec<u8>,
        locked: Option<&File>,
        why: Option<io::Error>,
    ) -> Result<Written> {
        let file = match (in_place::open(&self.path, self.owner), why) {
            (Ok(file), _) => file,
            (Err(_), Some(why)) => return Err(self.failed(why)),
            (Err(refusal), None) => return Err(self.mount_refused(&refusal)),
        };
        // A lock on the same file by another descriptor would block our own.
        in_place::write(&file, &text, locked.is_some()).map_err(|error| self.failed(error))?;
        let stamp = file.metadata().map(|found| Stamp::of(&found));
        let stamp = stamp.map_err(|error| self.failed(error))?;
        Ok(Written { stamp, _file: None, text })
    }

    /// Removes the list if it is still the one that we wrote; if it cannot be removed, an empty
    /// list is written.
    ///
    /// Between the check and the removal another process could put its own file there; another
    /// instance does not, since it needs the lock that we hold.
    pub(super) fn remove(&self, written: &Written, locked: Option<&File>) -> Result<()> {
        if !written.stamp.id.is_at(&self.path) {
            return Ok(());
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if in_place::is_about_the_place(&error) => {
                self.write_in_place(to_json(&[]), locked, Some(error)).map(drop)
            }
            removed => removed.map_err(|error| {
                Error::os(format!("failed to remove the export `{}`", self.path.display()), error)
            }),
        }
    }

    /// Determines whether a new list could be put at the path now; see [`Prospect`].
    pub(super) fn prospect(&self) -> Prospect {
        let mounted = filesystem::is_mount_point(&self.path);
        let why = if mounted {
            None
        } else {
            match self.try_beside() {
                Ok(())
                    if !self.is_kept_by_the_folder()
                        && filesystem::protecting_attribute(&self.path).is_none() =>
                {
                    return Prospect::Replaced;
                }
                Ok(()) => Some(io::Error::from_raw_os_error(libc::EPERM)),
                Err(error) if in_place::is_about_the_place(&error) => Some(error),
                Err(error) => return Prospect::Fails(self.failed(error)),
            }
        };
        match (in_place::open(&self.path, self.owner), why) {
            (Ok(file), _) if has_no_space(&file) => {
                Prospect::Fails(self.failed(io::Error::from_raw_os_error(libc::ENOSPC)))
            }
            (Ok(_), _) => Prospect::InPlace { mounted },
            (Err(_), Some(why)) => Prospect::Fails(self.failed(why)),
            (Err(refusal), None) => Prospect::Fails(self.mount_refused(&refusal)),
        }
    }

    /// Does everything that precedes the rename, with as many bytes as the current list has.
    fn try_beside(&self) -> io::Result<()> {
        let now = self.path.symlink_metadata().map_or(0, |found| found.len());
        let bytes = now.clamp(PROBE_MIN, PROBE_MAX);
        let mut temp = self.create()?;
        self.fill(temp.as_file_mut(), &vec![b' '; usize::try_from(bytes).unwrap_or(0)]).map(drop)
    }

    /// Reports whether a rename would fail because another user's file is there, in a sticky
    /// folder.
    fn is_kept_by_the_folder(&self) -> bool {
        let user = rustix::process::geteuid().as_raw();
        let owner_of = |path: &Path| path.symlink_metadata().map_or(user, |found| found.uid());
        user != 0
            && self.is_sticky()
            && ![owner_of(&self.path), owner_of(&self.folder)].contains(&user)
    }

    fn fill(&self, file: &mut File, text: &[u8]) -> io::Result<Stamp> {
        hand_over(file, self.owner, MODE)?;
        file.write_all(text)?;
        Ok(Stamp::of(&file.metadata()?))
    }

    /// Creates a temporary file and locks it, so that it is not taken for a leftover.
    fn create(&self) -> io::Result<NamedTempFile> {
        for _ in 0..ATTEMPTS {
            let mut builder = tempfile::Builder::new();
            // `make_in` rather than `tempfile_in`, whose errors contain the random name and no
            // errno.
            let temp =
                builder.prefix(&self.prefix).rand_bytes(RANDOM).make_in(&self.folder, |path| {
                    File::options().write(true).create_new(true).mode(0o600).open(path)
                })?;
            // On a file system without locks no exporter removes leftovers either.
            let ours = try_flock(temp.as_file()).unwrap_or(true);
            // A process that removes leftovers may have removed it between its creation and the
            // lock.
            if ours && FileId::of(&temp.as_file().metadata()?).is_at(temp.path()) {
                return Ok(temp);
            }
        }
        Err(io::Error::from(rustix::io::Errno::AGAIN))
    }

    /// Removes what crashed writers left beside the file: regular files of the owner with exactly
    /// our kind of name that no writer has locked. Leftovers that cannot be removed do no harm.
    pub(super) fn remove_leftovers(&self) {
        let removed = self.act(|| {
            self.remove_leftovers_here();
            Ok(())
        });
        if let Err(error) = removed {
            tracing::debug!("{error}");
        }
    }

    fn remove_leftovers_here(&self) {
        let Ok(folder) = self.folder.read_dir() else { return };
        for found in folder.flatten() {
            if self.is_temporary(found.file_name().as_bytes()) {
                self.remove_leftover(&found.path());
            }
        }
    }

    fn is_temporary(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes())
            .is_some_and(|rest| rest.len() == RANDOM && rest.iter().all(u8::is_ascii_alphanumeric))
    }

    fn remove_leftover(&self, path: &Path) {
        let Ok(file) = open_as_is(path, OFlags::RDONLY) else { return };
        let ours = file.metadata().is_ok_and(|found| found.is_file() && found.uid() == self.owner);
        if ours && try_flock(&file) == Ok(true) && std::fs::remove_file(path).is_ok() {
            tracing::debug!("removed `{}`, which a crashed writer left", path.display());
        }
    }

    /// Returns the error with advice for its cause. The temporary file's name is not part of it, so
    /// equal causes give equal messages.
    fn failed(&self, error: io::Error) -> Error {
        let path = self.path.display();
        let found = self.path.symlink_metadata().ok();
        if found.as_ref().is_some_and(Metadata::is_dir) {
            return folder_in_the_way(&self.path).with_source(error);
        }
        let other_owner = found.map(|found| found.uid()).filter(|uid| *uid != self.owner);
        if let (io::ErrorKind::PermissionDenied, Some(uid), true) =
            (error.kind(), other_owner, self.is_sticky())
        {
            let message = format!(
                "the export `{path}` belongs to uid {uid} and its folder is sticky: have it removed, or choose another path"
            );
            return Error::os(message, error);
        }
        let advice = match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => "free some space on its disk",
            Some(Errno::ROFS) => "mount it writable, or choose another path",
            Some(Errno::PERM) if filesystem::protecting_attribute(&self.path).is_some() => {
                "remove its attribute `i` or `a` (chattr)"
            }
            Some(Errno::BUSY) => "mount its folder instead of the file, or choose another path",
            _ => "check its folder",
        };
        Error::os(format!("failed to write the export `{path}`: {advice}"), error)
    }

    /// Returns the error for a mount point that cannot be written in place.
    fn mount_refused(&self, refusal: &Refusal) -> Error {
        let path = self.path.display();
        match refusal {
            Refusal::Os(errno) => self.failed((*errno).into()),
            Refusal::NotOurs(why) => Error::new(
                Kind::Denied,
                format!(
                    "the export `{path}` is a mount point and {why}: mount its folder, or a file of uid {}",
                    self.owner
                ),
            ),
        }
    }

    fn is_sticky(&self) -> bool {
        self.folder.metadata().is_ok_and(|folder| folder.permissions().mode() & STICKY != 0)
    }
}

/// The list as we renamed it into place, or wrote it there.
///
/// The descriptor stays open, which keeps the kernel from reusing the inode number for another
/// user's file. The descriptor of a file that was written in place is closed: it would keep a
/// mounted file from being unmounted, and no other file can take its place.
#[derive(Debug)]
pub(super) struct Written {
    stamp: Stamp,
    _file: Option<File>,
    text: Vec<u8>,
}

impl Written {
    /// Reports whether the file at `path` is ours, contains this text, and was not modified.
    pub(super) fn holds(&self, text: &[u8], path: &Path) -> bool {
        self.text == text
            && path.symlink_metadata().is_ok_and(|found| Stamp::of(&found) == self.stamp)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    id: FileId,
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        Self { id: FileId::of(metadata), size: metadata.len(), modified }
    }
}

fn no_folder(path: &Path, error: io::Error) -> Error {
    let folder = path.parent().unwrap_or(path).display();
    Error::os(format!("the export's folder `{folder}` cannot be used: create it"), error)
}

fn folder_in_the_way(path: &Path) -> Error {
    let message = format!("the export path `{}` is a folder: choose another path", path.display());
    Error::new(Kind::InvalidInput, message)
}
