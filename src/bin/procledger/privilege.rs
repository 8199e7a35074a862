//! root acts on another user's ledger as that user, never as root: a forged row must not make root kill an unrelated process, nor a path
//! that the user exchanges make root write elsewhere.

use std::{ffi::CString, path::Path};

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};
use procledger::paths::controller;

use crate::exit::{Failure, Result};

/// The user that root became.
#[derive(Debug)]
pub(crate) struct Account {
    /// Its entry in passwd(5), where it has one.
    pub(crate) entry: Option<User>,
}

/// Becomes, for good, the user who controls where the path of `ledger` leads, where we are root and it is another user: before
/// anything on that path is opened, created or even looked for. Only while no other thread runs.
pub(crate) fn act_as_owner(ledger: &Path) -> Result<Option<Account>> {
    // What cannot be reached is refused where it is opened, with its name.
    let Ok(Some(owner)) = controller(ledger) else { return Ok(None) };
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    become_user(uid, gid).map(Some).map_err(|error| {
        Failure::because(
            format!(
                "{} belongs to uid {uid}, and root could not become that user",
                ledger.display()
            ),
            &error,
        )
    })
}

fn become_user(uid: Uid, unknown_gid: Gid) -> nix::Result<Account> {
    let entry = User::from_uid(uid)?;
    if let Some(user) = &entry {
        let name = CString::new(user.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
        initgroups(&name, user.gid)?;
        setgid(user.gid)?;
    } else {
        setgroups(&[])?;
        setgid(unknown_gid)?;
    }
    setuid(uid)?;
    // setuid(2) clears it, and without it our own /proc/self belongs to root, where identities are read.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(Account { entry })
}
