//! The keeper of a tree that is being ended: the processes below it, and the proof that there are
//! none.
//!
//! It is identified only by the identity in the root's row. While it is alive, every process that
//! is orphaned in the tree becomes its child, so its list of children is empty exactly if no
//! process of the tree is left.

use super::{
    member::Member,
    state::{EndContext, TreeRun},
};
use crate::{
    identity::Pid, policy::exemption::Exempt, sys::snapshot::Snapshot,
    tracker::membership::recorded_keeper::verified,
};

impl TreeRun {
    /// Returns the keeper, if it is alive and had its PID while the snapshot was taken.
    pub(super) fn find_keeper(
        &mut self,
        context: &EndContext<'_>,
        snapshot: &Snapshot,
    ) -> Option<Pid> {
        let identity = self.root.keeper?;
        let lives = |pinned: &crate::sys::Pinned| !pinned.is_dead().unwrap_or(true);
        if !self.keeper.as_ref().is_some_and(lives) {
            self.keeper = verified(context.proc, context.observer, &identity, self.root.uid);
        }
        self.keeper.as_ref()?;
        let seen = snapshot.get(identity.pid)?;
        (seen.start_tick == identity.start_tick).then_some(identity.pid)
    }

    /// Notes the keeper's children that belong to others. `keeper` is `None` if being below it
    /// proves nothing, since a host is below it as well.
    pub(super) fn exempt_children(
        &mut self,
        snapshot: &Snapshot,
        keeper: Option<Pid>,
        exempt: &Exempt<'_>,
    ) {
        if keeper.is_none() {
            self.keeper = None;
        }
        let children = keeper.into_iter().flat_map(|keeper| snapshot.children(keeper));
        self.exempted = children.map(|stat| stat.pid).filter(|pid| exempt.contains(*pid)).collect();
    }

    /// Returns whether the keeper has a live child that no scan has found, so that the tree has not
    /// ended.
    pub(super) fn has_unseen_children(&self, context: &EndContext<'_>) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let is_known = |pid: Pid| {
            let member = self.pids.get(&pid).map(|&index| &self.members[index]);
            let was_left = || self.exemptions.before.iter().any(|it| it.pid == pid);
            member.is_some_and(Member::is_alive) || self.exempted.contains(&pid) || was_left()
        };
        context.proc.has_other_children(keeper.pid(), is_known).unwrap_or(false)
            && keeper.has_its_pid()
    }
}
