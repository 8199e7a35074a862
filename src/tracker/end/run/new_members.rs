//! Detects processes that appear during a scan.
//!
//! A scan lists all PIDs and then reads each process. Suppose a member forks after the listing has
//! passed its child's PID, and exits before it is read itself. Then neither the member nor the
//! child is seen, and for a root that has ended there is no later scan. The child has one of the
//! PIDs that were allocated during the scan, so each of these is examined.

use super::state::{EndContext, TreeRun};
use crate::{
    identity::Pid,
    sys::snapshot::Snapshot,
    tracker::membership::evidence::{OwnEvidence, RootEvidence, own_evidence},
};

/// Limit on rounds: more processes may appear while these are examined, and are examined too.
const ROUNDS: u32 = 5;
/// Maximum number of PIDs that are examined. If more processes are forked during a scan, its result
/// is used as it is.
const FEW: u32 = 128;

/// Returns whether a process that is not in the snapshot belongs to one of the trees, so that
/// another scan would find more. `before` is the last PID that was allocated before the snapshot
/// was taken.
pub(super) fn has_new_members(
    context: &EndContext<'_>,
    trees: &[TreeRun],
    snapshot: &Snapshot,
    before: Option<Pid>,
) -> bool {
    let Some(mut last) = before else { return false };
    let evidence = RootEvidence::of(trees.iter().map(|tree| &tree.root));
    for _ in 0..ROUNDS {
        // If the PIDs have wrapped around, this cannot be determined.
        let Some(now) = context.proc.last_allocated().filter(|now| *now > last) else { break };
        if now.get() - last.get() > FEW {
            break;
        }
        let new = (last.get() + 1..=now.get()).filter_map(|number| Pid::new(i64::from(number)));
        // A process that is in the snapshot was handled by the scan.
        let mut unseen = new.filter(|&pid| snapshot.get(pid).is_none());
        if unseen.any(|pid| belongs(context, &evidence, pid)) {
            return true;
        }
        last = now;
    }
    trees.iter().flat_map(|tree| &tree.unlisted).any(|&pid| lives(context, pid))
}

fn belongs(context: &EndContext<'_>, evidence: &RootEvidence, pid: Pid) -> bool {
    match own_evidence(context.proc, evidence, pid) {
        OwnEvidence::None => false,
        OwnEvidence::Certain => true,
        // A process that may not be read would not be recognized as a member by the next scan
        // either.
        OwnEvidence::Indeterminate => context.proc.is_in_exec(pid),
    }
}

fn lives(context: &EndContext<'_>, pid: Pid) -> bool {
    matches!(context.proc.stat(pid), Ok(Some(stat)) if !stat.is_zombie())
}
