//! Lists the current children of a process, from the kernel's own list, and the dead children of
//! this process.
//!
//! `/proc/PID/task/TID/children` (`proc_tid_children(5)`, Linux 3.5 with `CONFIG_PROC_CHILDREN`) is
//! read under the lock that forks, exits and reparenting take. Its manual warns that a list with
//! entries may miss some while others exit; an *empty* list is exact. Since everything that is
//! orphaned below a subreaper stays below it, an empty list proves that a subreaper has no
//! descendants at all. No scan of `/proc`, which takes many reads, can prove that for a tree that
//! keeps forking.

use std::collections::HashSet;

use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions, getpid, waitid},
};

use super::{BUFFER, Proc, number, stat::Stat};
use crate::{error::Result, identity::Pid};

/// Maximum size of a list: some 100,000 children. A truncated list still has entries.
const LIST_LIMIT: usize = 1 << 20;
/// Maximum number of rounds, each of which requires a child that has become a zombie since the
/// previous one.
const ROUNDS: u32 = 64;

impl Proc {
    /// Reports whether `parent` has a live child that is not in `known`. `None` if the kernel does
    /// not list children, or not those of this process.
    pub(crate) fn has_other_children(
        &self,
        parent: Pid,
        known: impl Fn(Pid) -> bool,
    ) -> Option<bool> {
        // A child that was alive when it was listed, and is a zombie now, may have left a child to
        // `parent` in between. A zombie cannot fork, so the list is read again until it contains
        // nothing new.
        let mut zombies = HashSet::new();
        for _ in 0..ROUNDS {
            let mut children = self.children(parent)?;
            children.retain(|pid| !zombies.contains(pid) && !known(*pid));
            if children.is_empty() {
                return Some(false);
            }
            for pid in children {
                match self.stat(pid) {
                    Ok(Some(stat)) if stat.is_zombie() => {
                        zombies.insert(pid);
                    }
                    // It was reaped in the meantime.
                    Ok(None) => {}
                    Ok(Some(_)) | Err(_) => return Some(true),
                }
            }
        }
        Some(true)
    }

    /// Lists the children of all threads of a process, including zombies; `None` if the kernel does
    /// not list them.
    pub(crate) fn children(&self, pid: Pid) -> Option<Vec<Pid>> {
        let threads = self.threads(pid)?;
        // A kernel without the list would look like a process without children.
        let listed = format!("{pid}/task/{}/children", threads.first()?);
        let (exists, none) = (rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty());
        rustix::fs::accessat(&self.dir, listed, exists, none).ok()?;
        let mut found = Vec::new();
        for thread in threads {
            let name = format!("task/{thread}/children");
            BUFFER.with_borrow_mut(|buffer| {
                // A thread that ends passes its children on to another one, whose list may already
                // have been read. If that matters, the caller reads twice.
                let there = self.read(pid, &name, buffer, LIST_LIMIT).ok()?;
                if there {
                    let words = buffer.split(u8::is_ascii_whitespace);
                    found.extend(words.filter_map(number::<i64>).filter_map(Pid::new));
                }
                Some(())
            })?;
        }
        Some(found)
    }

    /// Returns the threads of a process, including the leading one; `None` if they cannot be
    /// listed.
    pub(super) fn threads(&self, pid: Pid) -> Option<Vec<Pid>> {
        use rustix::fs::{Dir, Mode, OFlags, openat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.dir, format!("{pid}/task"), flags, Mode::empty()).ok()?;
        let entries = Dir::new(folder).ok()?.filter_map(Result::ok);
        let number = |name: &std::ffi::CStr| number::<i64>(name.to_bytes()).and_then(Pid::new);
        Some(entries.filter_map(|entry| number(entry.file_name())).collect())
    }
}

/// Reports whether orphans around this process may become its children: it is the first process of
/// its PID namespace (`pid_namespaces(7)`), or a subreaper (`PR_GET_CHILD_SUBREAPER` in prctl(2)).
pub(crate) fn adopts_orphans() -> bool {
    getpid().is_init() || rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

/// Reports whether any child is dead and not yet reaped. Does not reap it.
pub(crate) fn has_dead_child() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::All, options) {
            Err(Errno::INTR) => {}
            found => return found.is_ok_and(|status| status.is_some()),
        }
    }
}

impl Proc {
    /// Returns the zombies among the children of this process.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed.
    pub(crate) fn dead_children(&self) -> Result<Vec<Stat>> {
        let own = std::process::id();
        let is_one = |stat: &Stat| stat.parent == own && stat.is_zombie();
        let listed = Pid::new(i64::from(own)).and_then(|own| self.children(own));
        let Some(children) = listed else {
            return Ok(self.snapshot()?.iter().filter(|stat| is_one(stat)).cloned().collect());
        };
        let mut dead = Vec::new();
        for pid in children {
            dead.extend(self.stat(pid)?.filter(is_one));
        }
        Ok(dead)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "children of a test, which waits for them")]
mod tests {
    use super::*;

    #[test]
    fn no_child_a_zombie_child_and_a_live_child_are_distinguished() {
        let proc = Proc::open().expect("/proc");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "sleep 60 & exec sleep 61"]).stdout(std::process::Stdio::null());
        let mut parent = shell.spawn().expect("a shell");
        let pid = Pid::new(i64::from(parent.id())).expect("a pid");
        let sleeps = |pid| {
            let stat = proc.stat(pid).ok().flatten();
            stat.is_some_and(|stat| stat.comm == b"sleep")
        };
        while !sleeps(pid) || proc.children(pid).is_none_or(|children| children.is_empty()) {
            std::thread::yield_now();
        }
        let child = proc.children(pid).expect("a list")[0];
        assert_eq!(proc.has_other_children(pid, |_| false), Some(true));
        assert_eq!(proc.has_other_children(pid, |pid| pid == child), Some(false));
        assert_eq!(proc.has_other_children(child, |_| false), Some(false));
        let fd = crate::sys::PidFd::open(child).expect("opened").expect("alive");
        fd.send(crate::sys::Signal::KILL).expect("killed");
        assert!(fd.wait_dead(std::time::Duration::from_secs(10)).expect("waited"));
        assert_eq!(proc.children(pid).expect("a list"), [child], "its parent does not reap it");
        assert_eq!(proc.has_other_children(pid, |_| false), Some(false));
        parent.kill().expect("killed");
        parent.wait().expect("ended");
        assert_eq!(proc.has_other_children(pid, |_| false), None);
    }

    #[test]
    fn a_dead_child_is_listed_and_stays_for_its_parent() {
        let proc = Proc::open().expect("/proc");
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        let pid = Pid::new(i64::from(child.id())).expect("a pid");
        let listed = || {
            let dead = proc.dead_children().expect("a list");
            dead.iter().any(|stat| stat.pid == pid)
        };
        while !listed() {
            std::thread::yield_now();
        }
        assert!(has_dead_child());
        assert!(child.wait().expect("its parent gets its status").success());
        assert!(!listed());
    }
}
