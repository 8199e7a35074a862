//! Roots that end without leaving a descendant. This is the usual end of a short program, and it is detected without scanning
//! every process.
//!
//! Whatever a root left was forked after the root. Where few PIDs have been allocated since then, only those are examined, each
//! for evidence that links it to the root: the task cgroup, the session and process group, the token. A process that is linked
//! to the tree by its parent alone is not searched for, since then its parent is one that is found. If any process is linked to
//! the root, or if anything cannot be determined, all of `/proc` is scanned as for any other root.

use crate::{
    identity::Pid,
    tracker::{
        core::Core,
        membership::evidence::{OwnEvidence, RootEvidence, own_evidence},
        runtime::tracked::Tracked,
    },
};

/// A process may fork and exit before it is examined. PIDs that were allocated in the meantime are therefore examined as well,
/// until there are no new ones; this is the limit on such rounds.
const ROUNDS: u32 = 5;
/// Up to this many PIDs are examined one by one; beyond that, every process is scanned.
const FEW: u32 = 128;

/// Returns whether no process belongs to this dead root of ours, which still holds its PID.
pub(in crate::tracker) fn is_childless(core: &Core, entry: &Tracked) -> bool {
    let root = &entry.root;
    // Below a keeper, the keeper's children belong to the root too. A registered root may have descendants of any age.
    if !entry.child || entry.keeper.is_some() {
        return false;
    }
    let evidence = RootEvidence::of(std::iter::once(root));
    let mut last = root.identity.pid.get();
    for _ in 0..ROUNDS {
        let Some(since) = core.proc.allocated_since(&root.identity) else { return false };
        if *since.end() <= last {
            // No process was forked since the others were examined: a process that had exited by then has left no
            // descendant either.
            return is_leaf_empty(core, entry);
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

fn is_leaf_empty(core: &Core, entry: &Tracked) -> bool {
    let Ok(task_cgroup) = core.cgroups.open_task_cgroup(entry.root.cgroup.as_ref()) else {
        return false;
    };
    // Not determined from a list: a process that moves between nested cgroups may be missing from it.
    task_cgroup.is_none_or(|task_cgroup| task_cgroup.is_empty())
}
