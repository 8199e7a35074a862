//! root acts on another user's ledger as that user, never as root: a forged row must not make root
//! kill an unrelated process, and a path that the user exchanges must not make root write
//! elsewhere.

use std::{
    ffi::CString,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    sys::prctl::set_dumpable,
    unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid},
};
use procledger::paths::controller;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::exit::{Failure, Result};

/// Set once, and not changed afterwards.
static HAS_BECOME: AtomicBool = AtomicBool::new(false);

/// The user that root became.
#[derive(Debug)]
pub(crate) struct Account {
    /// Its entry in passwd(5), if it has one.
    pub(crate) entry: Option<User>,
}

/// If this is root and another user controls where the path of `ledger` leads, permanently becomes
/// that user, before anything on that path is opened, created or checked. Must be called while no
/// other thread runs.
pub(crate) fn act_as_owner(ledger: &Path) -> Result<Option<Account>> {
    // A path that cannot be reached is refused later, when it is opened, with its name.
    let Ok(Some(owner)) = controller(ledger) else { return Ok(None) };
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    become_user(uid, gid).map(Some).map_err(|error| {
        // In a user namespace an owner without a number looks like a user; only `/proc` shows the
        // difference.
        let advice = if Path::new("/proc/self/uid_map").exists() {
            ""
        } else {
            " (`/proc` is missing: mount it)"
        };
        Failure::because(
            format!(
                "{} belongs to uid {uid}, and root could not become that user{advice}",
                ledger.display()
            ),
            &error,
        )
    })
}

/// Becomes another user for good. Must be called while no other thread runs.
pub(crate) fn act_as(uid: Uid) -> Result<()> {
    // Without an entry in passwd(5) its group has the same number.
    let became = become_user(uid, Gid::from_raw(uid.as_raw()));
    became
        .map(drop)
        .map_err(|error| Failure::because(format!("root could not become uid {uid}"), &error))
}

/// Returns whether this process started as root and has become another user.
pub(crate) fn has_become_another() -> bool {
    HAS_BECOME.load(Ordering::Relaxed)
}

/// Permanently becomes a user, without giving the user access to anything of root's.
///
/// The user may signal the process from then on. It may not read its memory or environment, trace
/// it, or take its descriptors (root's terminal among them): the process is undumpable, as
/// setuid(2) makes it, and stays so. The parts of `/proc/self` that identities need remain readable
/// for the process itself; a program that it executes is dumpable again
/// (`PR_SET_DUMPABLE(2const)`).
fn become_user(uid: Uid, unknown_gid: Gid) -> nix::Result<Account> {
    let entry = User::from_uid(uid)?;
    // 1. Before it belongs to the user: `fs.suid_dumpable` may make a process that changes its user
    //    dumpable.
    set_dumpable(false)?;
    // 2. Groups first, while they may still be set.
    if let Some(user) = &entry {
        let name = CString::new(user.name.as_bytes()).map_err(|_| nix::Error::EINVAL)?;
        initgroups(&name, user.gid)?;
        setgid(user.gid)?;
    } else {
        setgroups(&[])?;
        setgid(unknown_gid)?;
    }
    setuid(uid)?;
    // 3. Capabilities go with the uid, except where the secure bits keep them (capabilities(7)).
    drop_capabilities().map_err(|error| nix::Error::from_raw(error.raw_os_error()))?;
    // 4. Again, since the steps above may have changed it.
    set_dumpable(false)?;
    HAS_BECOME.store(true, Ordering::Relaxed);
    Ok(Account { entry })
}

fn drop_capabilities() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    // Check first: a service's system call filter may refuse capset(2), which is rarely needed.
    if effective | permitted | inheritable == none {
        return Ok(());
    }
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
