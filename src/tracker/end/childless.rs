//! Detects roots that ended without leaving a descendant, without scanning every process. This is
//! the usual end of a short program.
//!
//! Everything that a root left was forked after the root. If few PIDs were allocated since then,
//! only those are examined, each for evidence that links it to the root: the task cgroup, the
//! session and process group, the token. A process that is linked to the tree only by its parent
//! need not be searched for, since its parent is found. If any process is linked to the root, or
//! anything cannot be determined, all of `/proc` is scanned as for any other root.

use crate::{
    identity::Pid,
    tracker::{
        core::Core,
        membership::evidence::{OwnEvidence, RootEvidence, own_evidence},
        runtime::tracked::Tracked,
    },
};

/// A process may fork and exit before it is examined. PIDs that were allocated in the meantime are
/// therefore examined as well, until there are no new ones; this is the limit on such rounds.
const ROUNDS: u32 = 5;
/// The number of PIDs up to which they are examined one by one; beyond that, every process is
/// scanned.
const FEW: u32 = 128;

/// Returns whether this dead root of ours, which still has its PID, left no process.
pub(in crate::tracker) fn is_childless(core: &Core, entry: &Tracked) -> bool {
    let root = &entry.root;
    // Below a keeper, the keeper's children belong to the root too. A registered root may have
    // descendants of any age.
    if !entry.child || entry.keeper.is_some() {
        return false;
    }
    let evidence = RootEvidence::of(std::iter::once(root));
    let mut last = root.identity.pid.get();
    for _ in 0..ROUNDS {
        let Some(since) = core.proc.allocated_since(&root.identity) else { return false };
        if *since.end() <= last {
            // No process was forked since the others were examined, so a process that had exited by
            // then left no descendant either.
            return is_task_cgroup_empty(core, entry);
        }
        let mut new = last + 1..=*since.end();
        last = *since.end();
        let few = last - root.identity.pid.get() <= FEW;
        let is_not_of = |number| {
            let pid = Pid::new(i64::from(number));
            pid.is_none_or(|pid| own_evidence(&core.proc, &evidence, pid) == OwnEvidence::None)
        };
        if !few || !new.all(is_not_of) {
            return false;
        }
    }
    false
}

fn is_task_cgroup_empty(core: &Core, entry: &Tracked) -> bool {
    let Ok(task_cgroup) = core.cgroups.open_task_cgroup(entry.root.cgroup.as_ref()) else {
        return false;
    };
    // This is not determined from a list, in which a process that moves between nested cgroups may
    // be missing.
    task_cgroup.is_none_or(|task_cgroup| task_cgroup.is_empty())
}
