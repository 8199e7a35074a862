//! The right to write: an exclusive `flock` on `PATH.lock`, or on the export itself if no such file
//! can be created.

use std::{
    fs::{File, Metadata, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::{
    error::{Error, Kind, Result},
    sys::plain_file::{FileId, open_as_is, try_flock},
};

/// How often a lock file may vanish between opening and locking before we give up. Each time means
/// that another instance ended cleanly within microseconds.
const ATTEMPTS: u32 = 100;

/// The result of one attempt to lock a file.
#[derive(Debug)]
pub(super) enum Take {
    Taken(Lock),
    /// Another instance holds it.
    Held,
    /// The path no longer names this file: the caller opens it anew.
    Vanished,
}

/// The right to write the export, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    id: FileId,
    /// Whether the export itself is locked, because there is no lock file.
    is_the_export: bool,
}

impl Lock {
    /// Takes the lock without waiting; `None` while another instance holds it.
    pub(super) fn acquire(path: &Path, owner: u32) -> Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let Some(file) = open_or_create(path, owner)? else { continue };
            match Self::take(file, path, owner)? {
                Take::Taken(lock) => return Ok(Some(lock)),
                Take::Held => return Ok(None),
                Take::Vanished => {}
            }
        }
        Err(Error::new(
            Kind::Busy,
            format!(
                "gave up locking `{}`: the file was replaced {ATTEMPTS} times; try again",
                path.display()
            ),
        ))
    }

    /// Locks the opened file, whose name may have been removed meanwhile by a holder that ended.
    pub(super) fn take(file: File, path: &Path, owner: u32) -> Result<Take> {
        let found = file.metadata().map_err(|error| failed("examine", path, error))?;
        let id = check(path, &found, owner)?;
        if !try_flock(&file).map_err(|errno| failed("lock", path, errno))? {
            return Ok(Take::Held);
        }
        let lock = Self { file, path: path.to_owned(), id, is_the_export: false };
        Ok(if lock.is_named() { Take::Taken(lock) } else { Take::Vanished })
    }

    /// Locks the export itself, for a place where no lock file can be created; `None` while another
    /// instance or a reader has it locked.
    pub(super) fn of_the_export(file: File, path: &Path) -> Result<Option<Self>> {
        let id = FileId::of(&file.metadata().map_err(|error| failed("examine", path, error))?);
        let is_free = try_flock(&file).map_err(|errno| failed("lock", path, errno))?;
        let lock = Self { file, path: path.to_owned(), id, is_the_export: true };
        Ok(Some(lock).filter(|lock| is_free && lock.is_named()))
    }

    /// Returns the export, if the lock is on the export itself.
    pub(super) fn export(&self) -> Option<&File> {
        self.is_the_export.then_some(&self.file)
    }

    /// Checks whether the lock file could be used, without taking the lock: an instance that starts
    /// at that moment would find it taken.
    pub(super) fn look(path: &Path, owner: u32) -> Result<()> {
        match path.symlink_metadata() {
            Err(_) => Ok(()),
            Ok(found) if found.is_symlink() => Err(is_a_symlink(path)),
            Ok(found) => check(path, &found, owner).map(drop),
        }
    }

    /// Reports whether the path still names the locked file; if not, another instance may hold a
    /// lock on a new file of the same name.
    pub(super) fn is_named(&self) -> bool {
        self.id.is_at(&self.path)
    }

    /// Removes the file, then releases the lock. An instance that waits with the file open finds
    /// its name removed and opens it anew.
    pub(super) fn remove(self) -> Result<()> {
        if self.is_the_export || !self.is_named() {
            return Ok(());
        }
        std::fs::remove_file(&self.path).map_err(|error| failed("remove", &self.path, error))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that has not reached its exec yet holds a copy of the
        // descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Returns `None` if the file appeared or vanished meanwhile, so that the caller starts again.
///
/// In two steps: with `O_CREAT` on an existing file `fs.protected_regular` may refuse even root in
/// a sticky folder.
fn open_or_create(path: &Path, owner: u32) -> Result<Option<File>> {
    match open_as_is(path, OFlags::RDONLY) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => create(path, owner),
        Err(Errno::LOOP) => Err(is_a_symlink(path)),
        Err(errno) => Err(failed("open", path, errno)),
    }
}

fn create(path: &Path, owner: u32) -> Result<Option<File>> {
    let flags = OFlags::RDONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::EXIST) => return Ok(None),
        Err(errno) => return Err(failed("create", path, errno)),
    };
    hand_over(&file, owner, 0o600).map_err(|error| failed("set up", path, error))?;
    Ok(Some(file))
}

/// Gives a new file to the ledger's owner, for which root may act, and sets its mode regardless of
/// the umask.
pub(super) fn hand_over(file: &File, owner: u32, mode: u32) -> std::io::Result<()> {
    // The file's uid does not decide: some mounts show their own uid, and refuse to change it.
    if owner != rustix::process::geteuid().as_raw() {
        fchown(file, Some(owner), None)?;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

fn check(path: &Path, found: &Metadata, owner: u32) -> Result<FileId> {
    let denied = |what: String| {
        let message = format!("the lock file `{}` {what}: remove it", path.display());
        Err(Error::new(Kind::Denied, message))
    };
    if !found.is_file() {
        return denied("is not a regular file".to_owned());
    }
    if found.uid() != owner {
        return denied(format!("belongs to uid {}, not to uid {owner}", found.uid()));
    }
    Ok(FileId::of(found))
}

fn is_a_symlink(path: &Path) -> Error {
    let message = format!("the lock file `{}` is a symlink: remove it", path.display());
    Error::new(Kind::Denied, message)
}

fn failed(verb: &str, path: &Path, source: impl Into<std::io::Error>) -> Error {
    Error::os(format!("failed to {verb} the export's lock file `{}`", path.display()), source)
}
