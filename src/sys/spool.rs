//! Small files beside a ledger, for data that could not be written into it.
//!
//! A file is trusted only if it is a regular file of the ledger's owner that no other user can
//! access and that has no other name. It is opened without following a symlink, and without waiting
//! for the other end of a FIFO. It appears complete or not at all.

use std::{
    io::{Read, Write},
    os::unix::fs::{MetadataExt, fchown},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

use super::plain_file::open_as_is;
use crate::error::{Error, Kind, Result};

/// The permissions of group and others: they may neither read nor write it.
const OF_OTHERS: u32 = 0o077;

/// Writes a new file of mode 0600 that belongs to `owner`. Fails if it exists.
pub(crate) fn write(path: &Path, owner: u32, bytes: &[u8]) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::os(format!("failed to write `{}`", path.display()), error);
    let folder = path.parent().ok_or_else(|| Error::invalid("a file without a folder"))?;
    // The temporary file has mode 0600, and is removed unless it gets its name.
    let mut file =
        tempfile::Builder::new().prefix(".procledger-").tempfile_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    if rustix::process::geteuid().as_raw() != owner {
        fchown(file.as_file(), Some(owner), None).map_err(failed)?;
    }
    file.as_file().sync_data().map_err(failed)?;
    file.persist_noclobber(path).map(drop).map_err(|error| failed(error.error))
}

/// Returns the content of a file; `None` if it does not exist. Fails for a file that other users
/// can access, or that is longer than `limit`.
pub(crate) fn read(path: &Path, owner: u32, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = |error: Errno| Error::os(format!("failed to read `{}`", path.display()), error);
    let file = match open_as_is(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let lost = |error| Error::os(format!("failed to read `{}`", path.display()), error);
    let found = file.metadata().map_err(lost)?;
    let trusted = found.is_file()
        && found.uid() == owner
        && found.mode() & OF_OTHERS == 0
        && found.nlink() == 1
        && found.len() <= limit;
    if !trusted {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "`{}` is left alone: it has to be a regular file of uid {owner} with mode 0600, without another name, of at \
                 most {limit} bytes",
                path.display()
            ),
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(lost)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_written_file_is_read_back_and_replaces_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool");
        assert_eq!(read(&path, own(), 10).expect("a lookup"), None);
        write(&path, own(), b"word").expect("written");
        assert_eq!(read(&path, own(), 10).expect("read").as_deref(), Some(&b"word"[..]));
        assert!(read(&path, own(), 3).is_err(), "too long");
        assert!(write(&path, own(), b"other").is_err(), "it exists");
        assert_eq!(
            folder.path().read_dir().expect("a folder").count(),
            1,
            "nothing is left beside"
        );
    }

    #[test]
    fn a_file_that_another_user_could_have_created_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        write(&path("real"), own(), b"word").expect("written");
        std::os::unix::fs::symlink(path("real"), path("link")).expect("a link");
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        std::fs::create_dir(path("folder")).expect("a folder");
        for name in ["link", "fifo", "folder"] {
            assert!(read(&path(name), own(), 10).is_err(), "{name}");
        }
        assert!(read(&path("real"), own() + 1, 10).is_err(), "of another uid");
        std::fs::set_permissions(path("real"), std::fs::Permissions::from_mode(0o640))
            .expect("a mode");
        assert!(read(&path("real"), own(), 10).is_err(), "readable by others");
        std::fs::set_permissions(path("real"), std::fs::Permissions::from_mode(0o600))
            .expect("a mode");
        std::fs::hard_link(path("real"), path("second")).expect("a link");
        assert!(read(&path("real"), own(), 10).is_err(), "it has another name");
    }
}
