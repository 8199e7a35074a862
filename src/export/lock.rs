//! Who writes: an exclusive `flock` on `PATH.lock`, or on the export itself where no such file can be made.

use std::{
    fs::{File, Metadata, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::error::{Error, Kind, Result};

/// How often a lock file may vanish between opening and locking before we give up: each time means that another
/// instance ended cleanly in these microseconds.
const ATTEMPTS: u32 = 100;

/// What makes a file itself for as long as somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Whether `path` itself, not what it may point to, is this file.
    pub(super) fn is_at(self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|found| Self::of(&found) == self)
    }
}

/// What became of one attempt to lock a file.
#[derive(Debug)]
pub(super) enum Take {
    Taken(Lock),
    /// By another instance.
    Held,
    /// The path does not name it any more: open anew.
    Vanished,
}

/// The right to write the export, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    id: FileId,
    /// Whether it is the export itself that is locked, for want of a lock file.
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
            format!("the lock file `{}` changes all the time: try again", path.display()),
        ))
    }

    /// Locks what was opened. Its name may have gone meanwhile, with the holder who ended.
    pub(super) fn take(file: File, path: &Path, owner: u32) -> Result<Take> {
        let found = file.metadata().map_err(|error| failed("examine", path, error))?;
        let id = check(path, &found, owner)?;
        if !try_flock(&file).map_err(|errno| failed("lock", path, errno))? {
            return Ok(Take::Held);
        }
        let lock = Self { file, path: path.to_owned(), id, is_the_export: false };
        Ok(if lock.is_named() { Take::Taken(lock) } else { Take::Vanished })
    }

    /// Locks the export itself, where no lock file can be made; `None` while another instance, or a reader, has it locked.
    pub(super) fn of_the_export(file: File, path: &Path) -> Result<Option<Self>> {
        let id = FileId::of(&file.metadata().map_err(|error| failed("examine", path, error))?);
        let is_free = try_flock(&file).map_err(|errno| failed("lock", path, errno))?;
        let lock = Self { file, path: path.to_owned(), id, is_the_export: true };
        Ok(Some(lock).filter(|lock| is_free && lock.is_named()))
    }

    /// The export, where that is what is locked.
    pub(super) fn export(&self) -> Option<&File> {
        self.is_the_export.then_some(&self.file)
    }

    /// Whether the lock file could be used, as far as a look can say. It takes no lock: an instance that starts just then
    /// would find it taken.
    pub(super) fn look(path: &Path, owner: u32) -> Result<()> {
        match path.symlink_metadata() {
            Err(_) => Ok(()),
            Ok(found) if found.is_symlink() => Err(is_a_symlink(path)),
            Ok(found) => check(path, &found, owner).map(drop),
        }
    }

    /// Whether the path still names what is locked; if not, another instance may hold a lock of the same name.
    pub(super) fn is_named(&self) -> bool {
        self.id.is_at(&self.path)
    }

    /// Removes the file, then gives the lock up. Who waits with the file open finds its name gone and opens anew.
    pub(super) fn remove(self) -> Result<()> {
        if self.is_the_export || !self.is_named() {
            return Ok(());
        }
        std::fs::remove_file(&self.path).map_err(|error| failed("remove", &self.path, error))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that has not reached its exec holds a copy of the descriptor for a moment.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Takes an exclusive `flock` without waiting; `false` while somebody else has it.
pub(super) fn try_flock(file: &File) -> Result<bool, Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Opens for reading what stands at `path` itself: no symlink is followed, no FIFO waited for, no terminal acquired.
pub(super) fn open_as_is(path: &Path) -> Result<File, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from)
}

/// `None` where the file came or went meanwhile, so that the caller starts again.
///
/// In two steps: with `O_CREAT` on an existing file `fs.protected_regular` may refuse even root in a sticky folder.
fn open_or_create(path: &Path, owner: u32) -> Result<Option<File>> {
    match open_as_is(path) {
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

/// Gives a new file to the ledger's owner, for whom root may act, and sets its mode whatever the umask was.
pub(super) fn hand_over(file: &File, owner: u32, mode: u32) -> std::io::Result<()> {
    // Not by the file's uid: some mounts show one of their own, and refuse to change it.
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
