//! Determines which processes are in a task cgroup.

use std::collections::HashSet;

use crate::{
    error::Result,
    identity::Pid,
    sys::{
        Proc,
        cgroup::{Paths, TaskCgroup},
        snapshot::Snapshot,
    },
};

/// The processes in a task cgroup.
#[derive(Debug, Default)]
pub(in crate::tracker) struct InTaskCgroup {
    pub(in crate::tracker) pids: HashSet<Pid>,
    /// Processes for which it cannot be determined whether they are in it.
    pub(in crate::tracker) doubtful: HashSet<Pid>,
    /// Whether some could not be listed, or are in another PID namespace.
    pub(in crate::tracker) has_gaps: bool,
    /// Whether a part of it cannot be read for lack of permission.
    pub(in crate::tracker) is_closed: bool,
}

/// Lists the processes in a task cgroup. If not all can be listed, or if `search` is set, reads the
/// cgroup of each process of the snapshot.
///
/// Must be called after the snapshot was taken, so that a PID in both is the same process in both.
pub(in crate::tracker) fn list(
    proc: &Proc,
    snapshot: &Snapshot,
    task_cgroup: &TaskCgroup,
    search: bool,
) -> Result<InTaskCgroup> {
    let listing = task_cgroup.list()?;
    // A process that moves between nested cgroups may be in none of the lists.
    let misses = listing.pids.is_empty() && !task_cgroup.is_empty();
    let mut found = InTaskCgroup {
        pids: listing.pids.into_iter().collect(),
        has_gaps: listing.foreign,
        is_closed: !listing.complete,
        ..InTaskCgroup::default()
    };
    if listing.complete && !misses && !search {
        return Ok(found);
    }
    let paths = Paths::read()?;
    for stat in snapshot.iter().filter(|stat| !stat.is_kernel_thread()) {
        match paths.is_in(proc, stat.pid, &task_cgroup.record().path) {
            Some(true) => drop(found.pids.insert(stat.pid)),
            Some(false) => {}
            None => drop(found.doubtful.insert(stat.pid)),
        }
    }
    found.has_gaps |= !found.doubtful.is_empty();
    Ok(found)
}
