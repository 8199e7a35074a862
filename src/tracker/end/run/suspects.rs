//! Finds processes that may belong to a tree but cannot be identified. They are reported with it,
//! and left running.
//!
//! If a session alone contains a tree, a daemon that has left it and lost its parents is recognized
//! by its token. A process that is not dumpable (prctl(2), `PR_SET_DUMPABLE`; ssh-agent, set-uid
//! programs, a program whose file may not be read) shows its environment only with
//! `CAP_SYS_PTRACE`, and may be such a daemon. Most such processes on a machine are not. So
//! suspects are only those that
//!
//! - were adopted: their parent is PID 1, or an ancestor of the root or of the acting process;
//! - are no older than the root, and in another session than their parent;
//! - have the uid of the root's row as their real, effective or saved uid, or any uid if that of
//!   the row is root;
//! - are in the cgroup of the root, or below it, if that could be read: processes that a service
//!   manager started are not;
//! - are neither in a tree of this call nor in the ledger.
//!
//! A tree with a task cgroup or a live keeper has no suspects.

use std::collections::HashSet;

use super::state::{EndContext, TreeRun};
use crate::{
    identity::Pid,
    model::Containment,
    policy::suspects::{SuspectReason, orphans},
    sys::{
        children::adopts_orphans,
        snapshot::{Snapshot, Stat},
    },
};

/// Adds processes that may belong to the trees and cannot be read, each to the first such tree.
pub(super) fn find(context: &EndContext<'_>, trees: &mut [TreeRun], snapshot: &Snapshot) {
    let members: HashSet<Pid> = trees.iter().flat_map(|tree| tree.pids.keys().copied()).collect();
    for tree in trees.iter_mut() {
        tree.suspects.retain(|pid, _| !members.contains(pid));
    }
    let open = trees.iter().filter(|tree| tree.is_loosely_held());
    let Some(oldest) = open.map(|tree| tree.root.identity.start_tick).min() else { return };
    let mut adopters: HashSet<Pid> = context.ancestors.iter().copied().collect();
    adopters.extend(trees.iter().flat_map(|tree| tree.ancestors.iter().copied()));
    adopters.extend(Pid::new(1));
    if adopts_orphans() {
        adopters.insert(context.own);
    } else {
        adopters.remove(&context.own);
    }
    let others: HashSet<Pid> = context.untouchable().collect();
    let unknown = |stat: &&Stat| !members.contains(&stat.pid) && !others.contains(&stat.pid);
    for stat in orphans(snapshot, &adopters, oldest).into_iter().filter(unknown) {
        if !context.proc.is_closed(stat.pid) {
            continue;
        }
        if let Some(tree) = trees.iter_mut().find(|tree| tree.may_have_left(context, stat)) {
            tree.suspects.insert(stat.pid, SuspectReason::Unreadable);
        }
    }
}

impl TreeRun {
    /// Returns whether a process of the tree may have left its containment.
    fn is_loosely_held(&self) -> bool {
        let token = self.root.token.is_some();
        token
            && match self.root.containment {
                Containment::Session => true,
                // A keeper lives as long as the root. If the root was there without its keeper, the
                // keeper was killed.
                Containment::Keeper => self.was_there && !self.had_keeper,
                Containment::Cgroup | Containment::None => false,
            }
    }

    fn may_have_left(&self, context: &EndContext<'_>, stat: &Stat) -> bool {
        if !self.is_loosely_held() || stat.start_tick < self.root.identity.start_tick {
            return false;
        }
        let Ok(Some(status)) = context.proc.status(stat.pid) else { return false };
        let uids = [status.real_uid, status.effective_uid, status.saved_uid];
        if self.root.uid != 0 && !uids.contains(&self.root.uid) {
            return false;
        }
        // A child of ours is in our cgroup; that of another instance's child was read when the
        // child was pinned.
        let own = || context.proc.cgroup(context.own).ok().flatten();
        let roots = self.cgroup.clone().or_else(|| if self.is_held { own() } else { None });
        match (roots, context.proc.cgroup(stat.pid)) {
            (Some(roots), Ok(Some(at))) => at.starts_with(roots),
            // If one of them is unknown, the process stays a suspect.
            _ => true,
        }
    }
}
