//! Finds the keeper's executable, and checks that it can be trusted.
//!
//! It is opened once and executed by descriptor (`execveat(2)` with `AT_EMPTY_PATH`), so the file
//! that was checked is the file that runs. For root, and under `AT_SECURE` (getauxval(3)), a user
//! who could replace the file could run code with additional rights. In these cases the file and
//! every folder above it must belong to root and be writable by no other user. A sticky folder such
//! as `/tmp` is fine, since in it only root can replace root's files.

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

/// An open executable that is used as a keeper.
#[derive(Debug)]
pub(crate) struct Binary {
    file: OwnedFd,
    path: PathBuf,
}

impl Binary {
    /// Opens the executable that the embedding program has named.
    pub(crate) fn named(path: &Path) -> Result<Self> {
        let strict = is_strict();
        if strict && !path.is_absolute() {
            return Err(untrusted(path, "for root it must be named by an absolute path"));
        }
        let absolute = std::path::absolute(path).map_err(|error| cannot_open(path, error))?;
        Self::open(&absolute, strict)
    }

    /// Searches beside the running program, then in the folders of `PATH`; returns `None` if there
    /// is no keeper. Fails if one exists but cannot be used.
    pub(crate) fn found() -> Result<Option<Self>> {
        let own = env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        // The environment of a set-uid program is controlled by its caller, which must not choose a
        // program that we run.
        let path = if is_secure() { None } else { env::var_os("PATH") };
        let folders = path.iter().flat_map(env::split_paths).filter(|folder| folder.is_absolute());
        let mut unfit = None;
        for folder in beside.into_iter().chain(folders) {
            let path = folder.join(NAME);
            // A file that does not exist does not prevent trying the next one.
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
            return Err(untrusted(path, "it is not an executable file"));
        }
        if strict && (seen.st_uid != 0 || seen.st_mode & WRITABLE_BY_OTHERS != 0) {
            return Err(untrusted(
                path,
                "for root it must belong to root and be writable by no other user",
            ));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Returns the path at which it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Binary {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Checks each component of the path, as written, from the file up to `/`: only root may be able to
/// replace it.
fn check_folders(path: &Path) -> Result<()> {
    for part in path.ancestors() {
        let seen = std::fs::symlink_metadata(part).map_err(|error| cannot_open(part, error))?;
        if seen.uid() != 0 || is_writable_by_others(&seen) {
            let why = format!("`{}` can be changed by users other than root", part.display());
            return Err(untrusted(path, &why));
        }
    }
    Ok(())
}

fn is_writable_by_others(seen: &Metadata) -> bool {
    let sticky = seen.is_dir() && seen.mode() & STICKY != 0;
    // The mode of a symlink has no meaning.
    !seen.is_symlink() && !sticky && seen.mode() & WRITABLE_BY_OTHERS != 0
}

fn is_strict() -> bool {
    rustix::process::geteuid().is_root() || is_secure()
}

/// Reports whether this program was executed with more rights than those of its caller.
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
