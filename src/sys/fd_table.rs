//! The descriptors of this process: how many it may open, and pidfds that it already holds. Pidfds
//! were verified when they were opened, and always refer to the same process.

use std::{sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::{
    event::{PollFd, PollFlags},
    thread::{CapabilitySet, capabilities},
};

use super::{PidFd, Pinned, poll::poll_within, snapshot::Stat};
use crate::{
    error::{Error, Result},
    identity::Identity,
};

/// Number of pidfds that are polled in one call. poll(2) accepts at most as many as the descriptor
/// limit, which is usually not below this.
const AT_ONCE: usize = 512;

/// Returns the soft limit on descriptors (`RLIMIT_NOFILE`), or the usual value if a seccomp profile
/// refuses getrlimit(2).
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Raises the soft limit on descriptors of this process to its hard limit, and both to `needed` if
/// that is higher and this process may do so; returns the previous limits, or `None` if neither is
/// possible.
pub(crate) fn raise_descriptor_limit(needed: u64) -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let raise = |limit| setrlimit(Resource::RLIMIT_NOFILE, limit, limit);
    raise(hard.max(needed)).or_else(|_| raise(hard)).ok()?;
    Some((soft, hard))
}

/// Returns whether a process of this user can get a descriptor with this number, which this process
/// may have opened before its limit was lowered.
///
/// A hard limit is raised by the capability `CAP_SYS_RESOURCE` of the initial user namespace:
/// another namespace's root has the capability, but only there (setrlimit(2),
/// `user_namespaces(7)`).
pub(crate) fn can_install(number: i32) -> bool {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let may_raise = || {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
            && is_initial_user_namespace()
    };
    u64::try_from(number).is_ok_and(|number| number < hard) || may_raise()
}

/// Reports whether every uid is mapped to itself. Another namespace may be mapped like this as
/// well, which is rare.
fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Returns how many descriptors this process may still open; `None` if the open ones cannot be
/// listed.
pub(crate) fn free_descriptors() -> Option<usize> {
    let limit = usize::try_from(descriptor_limit()).unwrap_or(usize::MAX);
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(limit.saturating_sub(open))
}

/// Determines which of these processes are dead, with a few system calls even for many processes.
pub(crate) fn which_are_dead(held: &[Arc<PidFd>]) -> Result<Vec<bool>> {
    let mut dead = Vec::with_capacity(held.len());
    for some in held.chunks(AT_ONCE) {
        let mut fds: Vec<PollFd<'_>> =
            some.iter().map(|fd| PollFd::new(fd.as_ref(), PollFlags::IN)).collect();
        poll_within(&mut fds, Some(Duration::ZERO))
            .map_err(|error| Error::os("failed to poll pidfds", error))?;
        dead.extend(fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)));
    }
    Ok(dead)
}

impl Pinned {
    /// Returns a process whose pidfd was verified when it was opened, with the `stat` that `/proc`
    /// showed for its pid.
    ///
    /// `None` if `/proc` showed another process. The caller has verified that the process was alive
    /// *after* `stat` was read, so it had its pid then.
    pub(crate) fn held(fd: Arc<PidFd>, identity: Identity, stat: &Stat) -> Option<Self> {
        let same = stat.pid == identity.pid && stat.start_tick == identity.start_tick;
        same.then(|| Self { fd, identity, stat: stat.clone() })
    }
}
