//! Children of this process: those that it has started, and those that the kernel has given to it.

use std::fs;

use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions, getpid, waitid},
};

use super::procfs::{Proc, number};
use crate::{error::Result, identity::Pid, plan::observe::Stat};

/// Whether what dies around this process may become its child: it is the first process of its PID namespace
/// (`pid_namespaces(7)`), or a subreaper (`PR_GET_CHILD_SUBREAPER` in prctl(2)).
pub(crate) fn adopts_orphans() -> bool {
    getpid().is_init() || rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

/// Whether any child is dead and not reaped yet. None is reaped by the question.
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
    /// Zombies among the children of this process.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be listed.
    pub(crate) fn dead_children(&self) -> Result<Vec<Stat>> {
        let own = std::process::id();
        let is_one = |stat: &Stat| stat.parent == own && stat.is_zombie();
        let Some(children) = listed_children() else {
            return Ok(self.snapshot()?.iter().filter(|stat| is_one(stat)).cloned().collect());
        };
        let mut dead = Vec::new();
        for pid in children {
            dead.extend(self.stat(pid)?.filter(is_one));
        }
        Ok(dead)
    }
}

/// As the kernel lists them for each thread (`proc_tid_children(5)`); one that dies meanwhile may be left out. `None` where the
/// kernel was built without that.
fn listed_children() -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        match fs::read(thread.ok()?.path().join("children")) {
            Ok(line) => children.extend(
                line.split(u8::is_ascii_whitespace).filter_map(number::<i64>).filter_map(Pid::new),
            ),
            // A thread that has ended has left its children to the others.
            Err(_) if fs::exists("/proc/thread-self/children").is_ok_and(|exists| exists) => {}
            Err(_) => return None,
        }
    }
    Some(children)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a child of a test, which waits for it")]
mod tests {
    use super::*;

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
        assert!(child.wait().expect("its status is its parent's").success());
        assert!(!listed());
    }
}
