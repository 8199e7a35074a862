//! root acts on another user's ledger as that user, never as root: a forged row must not make root kill a stranger.

use std::{ffi::CString, fs, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

use crate::exit::{Failure, Result};

/// The user that root became.
#[derive(Debug)]
pub(crate) struct Account {
    /// Its entry in passwd(5), where it has one.
    pub(crate) entry: Option<User>,
}

/// Becomes the owner of `ledger` for good where we are root and it is somebody else's. Only while no other thread runs.
pub(crate) fn act_as_owner(ledger: &Path) -> Result<Option<Account>> {
    // A ledger that is not there yet, or cannot be looked at, is judged when it is opened.
    let Ok(file) = fs::metadata(ledger) else { return Ok(None) };
    if !geteuid().is_root() || file.uid() == 0 {
        return Ok(None);
    }
    become_user(Uid::from_raw(file.uid()), Gid::from_raw(file.gid())).map(Some).map_err(|error| {
        Failure::because(
            format!(
                "{} belongs to uid {}, and root could not become that user",
                ledger.display(),
                file.uid()
            ),
            &error,
        )
    })
}

fn become_user(uid: Uid, file_gid: Gid) -> nix::Result<Account> {
    let entry = User::from_uid(uid)?;
    if let Some(user) = &entry {
        let name = CString::new(user.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
        initgroups(&name, user.gid)?;
        setgid(user.gid)?;
    } else {
        setgroups(&[])?;
        setgid(file_gid)?;
    }
    setuid(uid)?;
    // setuid(2) clears it, and without it our own /proc/self belongs to root, where identities are read.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(Account { entry })
}
