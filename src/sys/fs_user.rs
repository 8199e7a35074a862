//! Lets root act as another user, for file access and in one thread only.
//!
//! In a folder that another user controls, each path may lead somewhere else the next time it is
//! resolved. So root does nothing there as root: setfsuid(2) and setfsgid(2) give the calling
//! thread that user's file access rights, and drop the capabilities that override them
//! (capabilities(7), "Effect of user ID changes on capabilities"). Then nothing is created, changed
//! or removed that the user could not have reached, wherever a path leads.
//!
//! SQLite opens `-wal` and `-shm` by path at any time; without a custom VFS this is the only way to
//! control those accesses.
//!
//! The kernel marks a process whose file system uid changes as not dumpable (`PR_SET_DUMPABLE` in
//! prctl(2)) and clears the thread's parent death signal. The signal is restored; a root host that
//! wants core dumps must set the flag again.

use std::marker::PhantomData;

use nix::unistd::{Gid, Uid, User, setfsgid, setfsuid};
use rustix::{
    process::{Signal, getgroups, parent_process_death_signal, set_parent_process_death_signal},
    thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_thread_groups},
};

use crate::error::{Error, Kind, Result};

/// Group for a user without an entry in passwd(5) whose files have root's group: `nogroup` on most
/// systems. Root's own group is never used.
const NO_GROUP: u32 = 65_534;

/// A user whose file access rights root assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Returns the user with its primary group or, if passwd(5) has no entry for it, with the group
    /// of one of its files.
    pub(crate) fn of(uid: u32, gid_of_file: u32) -> Self {
        let entry = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let unknown = if gid_of_file == 0 { NO_GROUP } else { gid_of_file };
        Self { uid, gid: entry.map_or(unknown, |user| user.gid.as_raw()) }
    }

    /// Returns its user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns its group id, which is never root's.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Gives the calling thread this user's file access rights until the guard is dropped.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it, or if the process keeps its capabilities across a change of user
    /// (`SECBIT_NO_SETUID_FIXUP`), so that root's rights would remain.
    pub fn act(&self) -> Result<Acting> {
        let failed = |error: rustix::io::Errno| {
            Error::os(format!("failed to act as uid {}: run as that user", self.uid), error)
        };
        let secure = capabilities_secure_bits().map_err(failed)?;
        if secure.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP) {
            let message = format!(
                "cannot act as uid {}: this process keeps its capabilities across a change of user \
                 (SECBIT_NO_SETUID_FIXUP), run as that user",
                self.uid
            );
            return Err(Error::new(Kind::Denied, message));
        }
        let groups = getgroups().map_err(failed)?;
        let death_signal = parent_process_death_signal().map_err(failed)?;
        // The groups first: they could be set without root's file access rights too, but if this
        // fails half-way it is easier to revert in this order.
        set_thread_groups(&[]).map_err(failed)?;
        let gid = setfsgid(Gid::from_raw(self.gid));
        let uid = setfsuid(Uid::from_raw(self.uid));
        let acting = Acting { uid, gid, groups, death_signal, in_this_thread: PhantomData };
        // Neither call reports an error; a second call returns the current value.
        let is_set = setfsgid(Gid::from_raw(self.gid)).as_raw() == self.gid
            && setfsuid(Uid::from_raw(self.uid)).as_raw() == self.uid;
        if is_set { Ok(acting) } else { Err(failed(rustix::io::Errno::PERM)) }
    }
}

/// A guard: until it is dropped, the calling thread has another user's file access rights.
#[derive(Debug)]
#[must_use]
pub struct Acting {
    uid: Uid,
    gid: Gid,
    groups: Vec<rustix::process::Gid>,
    death_signal: Option<Signal>,
    /// Dropping the guard in another thread would change that thread.
    in_this_thread: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        // If these fail, the thread has fewer rights than before, not more.
        let _ = set_thread_groups(&self.groups);
        if self.death_signal.is_some() {
            let _ = set_parent_process_death_signal(self.death_signal);
        }
    }
}

/// Runs `work` with the file access rights of `account`, or unchanged ones if there is none.
pub(crate) fn act_as<T>(account: Option<Account>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _acting = account.as_ref().map(Account::act).transpose()?;
    work()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tests::root;

    const USER: Account = Account { uid: 61_240, gid: 61_240 };

    #[test]
    fn root_has_only_the_rights_of_the_user_it_acts_as_until_the_guard_is_dropped() {
        if !root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let before =
            (getgroups().expect("groups"), parent_process_death_signal().expect("a signal"));
        {
            let _acting = USER.act().expect("acts");
            assert!(fs::write(folder.path().join("x"), "").is_err(), "a folder of root");
            assert_eq!(getgroups().expect("groups"), []);
        }
        fs::write(folder.path().join("x"), "").expect("root again");
        let after =
            (getgroups().expect("groups"), parent_process_death_signal().expect("a signal"));
        assert_eq!(before, after);
    }

    #[test]
    fn other_threads_stay_root_meanwhile() {
        if !root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (send, wait) = std::sync::mpsc::channel();
        let path = folder.path().join("y");
        let other = std::thread::spawn(move || {
            wait.recv().expect("a word");
            fs::write(path, "")
        });
        let _acting = USER.act().expect("acts");
        send.send(()).expect("sent");
        other.join().expect("ends").expect("is root");
    }

    #[test]
    fn an_account_that_passwd_does_not_know_never_gets_roots_group() {
        assert_eq!(Account::of(61_240, 0).gid, NO_GROUP);
        assert_eq!(Account::of(61_240, 61_241).gid, 61_241);
    }
}
