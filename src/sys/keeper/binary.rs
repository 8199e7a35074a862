//! Which executable is the keeper, and when it is trusted.
//!
//! It is opened once and executed by descriptor (`execveat(2)` with `AT_EMPTY_PATH`), so what was checked is what runs. For
//! root, and under `AT_SECURE` (getauxval(3)), whoever could have put another file there could have it run with more rights
//! than his own: then the file and every folder above it must be root's, and nobody else's to write. A sticky folder such as
//! `/tmp` is fine: in there only root can replace what is root's.

#![expect(unsafe_code, reason = "the auxiliary vector")]

use std::{
    env,
    fs::Metadata,
    io::ErrorKind,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags};

use super::NAME;
use crate::error::{Error, Kind, Result};

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
const EXECUTABLE: u32 = 0o111;

/// An executable that is taken for a keeper, open.
#[derive(Debug)]
pub(crate) struct Binary {
    file: OwnedFd,
    path: PathBuf,
}

impl Binary {
    /// Opens the one that the embedding program has named.
    pub(crate) fn named(path: &Path) -> Result<Self> {
        let strict = is_strict();
        if strict && !path.is_absolute() {
            return Err(untrusted(path, "for root it must be named by an absolute path"));
        }
        let absolute = std::path::absolute(path).map_err(|error| cannot_open(path, error))?;
        Self::open(&absolute, strict)
    }

    /// Looks beside the program that runs, then in the folders of `PATH`; `None` where there is none. An error tells of one
    /// that is there and cannot be used.
    pub(crate) fn found() -> Result<Option<Self>> {
        let own = env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        // What the caller of a set-uid program has in its environment names nothing that we would run.
        let path = if is_secure() { None } else { env::var_os("PATH") };
        let folders = path.iter().flat_map(env::split_paths).filter(|folder| folder.is_absolute());
        let mut unfit = None;
        for folder in beside.into_iter().chain(folders) {
            let path = folder.join(NAME);
            // A file that is not there is no obstacle to the next one.
            if path.is_file() {
                match Self::open(&path, is_strict()) {
                    Ok(binary) => return Ok(Some(binary)),
                    Err(error) => unfit = unfit.or(Some(error)),
                }
            }
        }
        unfit.map_or(Ok(None), Err)
    }

    fn open(path: &Path, strict: bool) -> Result<Self> {
        let failed = |error: std::io::Error| cannot_open(path, error);
        let real = path.canonicalize().map_err(failed)?;
        if strict {
            check_folders(path)?;
            check_folders(&real)?;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::open(&real, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let seen = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile
            || seen.st_mode & EXECUTABLE == 0
        {
            return Err(untrusted(path, "it is no executable file"));
        }
        if strict && (seen.st_uid != 0 || seen.st_mode & WRITABLE_BY_OTHERS != 0) {
            return Err(untrusted(path, "for root it must be root's, and nobody else's to write"));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Binary {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// From the file up to `/`, as it is written: nobody but root may be able to put something else in its place.
fn check_folders(path: &Path) -> Result<()> {
    for part in path.ancestors() {
        let seen = std::fs::symlink_metadata(part).map_err(|error| cannot_open(part, error))?;
        if seen.uid() != 0 || is_writable_by_others(&seen) {
            let why = format!("`{}` is not root's alone to change", part.display());
            return Err(untrusted(path, &why));
        }
    }
    Ok(())
}

fn is_writable_by_others(seen: &Metadata) -> bool {
    let sticky = seen.is_dir() && seen.mode() & STICKY != 0;
    // The mode of a symlink says nothing.
    !seen.is_symlink() && !sticky && seen.mode() & WRITABLE_BY_OTHERS != 0
}

fn is_strict() -> bool {
    rustix::process::geteuid().is_root() || is_secure()
}

/// Whether this program was executed with more rights than its caller has.
pub(crate) fn is_secure() -> bool {
    // SAFETY: getauxval(3) reads the vector that the kernel gave this process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

fn cannot_open(path: &Path, error: std::io::Error) -> Error {
    let message = format!("failed to open the keeper `{}`", path.display());
    match error.kind() {
        ErrorKind::NotFound => Error::new(Kind::NotFound, message).with_source(error),
        _ => Error::os(message, error),
    }
}

fn untrusted(path: &Path, why: &str) -> Error {
    Error::new(Kind::Denied, format!("the keeper `{}` is not used: {why}", path.display()))
}
