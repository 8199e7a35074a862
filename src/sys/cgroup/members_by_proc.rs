//! Finds the processes in a cgroup by reading `/proc/PID/cgroup` of each process.
//!
//! This costs more than listing a cgroup. But no mode of a nested cgroup prevents it, and a process
//! that moves between two nested cgroups is never missed, since it is always in one of them.

use std::path::Path;

use super::hierarchy::{Mount, folder, mounts};
use crate::{
    error::{Error, Result},
    identity::Pid,
    sys::Proc,
};

/// The v2 mounts that this process sees, which map the path of a cgroup to a folder.
#[derive(Debug)]
pub(crate) struct Paths(Vec<Mount>);

impl Paths {
    /// Reads the mounts.
    ///
    /// # Errors
    ///
    /// When `/proc/self/mountinfo` cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let file = "/proc/self/mountinfo";
        let text = std::fs::read(file)
            .map_err(|error| Error::os(format!("failed to read `{file}`"), error))?;
        Ok(Self(mounts(&text)))
    }

    /// Reports whether a process is in the cgroup of this folder, or in one nested in it; `None` if
    /// that cannot be read: a path longer than `PATH_MAX` is truncated at its end (observed on
    /// Linux 6.18), or refused.
    pub(crate) fn is_in(&self, proc: &Proc, pid: Pid, top: &Path) -> Option<bool> {
        let path = proc.cgroup(pid).ok()?;
        Some(path.is_some_and(|path| self.is_below(&path, top)))
    }

    fn is_below(&self, cgroup: &Path, top: &Path) -> bool {
        self.0.iter().any(|mount| folder(mount, cgroup).is_some_and(|at| at.starts_with(top)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_of_the_same_name_elsewhere_is_another_one() {
        let text = b"31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let paths = Paths(mounts(text));
        let top = Path::new("/sys/fs/cgroup/a/procledger-x/token");
        let is_in = |path: &str| paths.is_below(Path::new(path), top);
        assert!(is_in("/a/procledger-x/token") && is_in("/a/procledger-x/token/b/c"));
        assert!(!is_in("/b/procledger-x/token"), "another user's");
        assert!(!is_in("/a/procledger-x/token2") && !is_in("/a/procledger-x") && !is_in("/"));
        assert!(!is_in("/../a/procledger-x/token"), "outside our cgroup namespace");
    }
}
