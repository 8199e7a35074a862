//! Ending by leaf: one write stops or kills all that is in it, whoever they are forking.
//!
//! It is used only where everybody in the leaf is to be ended. Where the acting process, an ancestor of it, or another live
//! instance sits in the leaf, as after a task has restarted its host (invariant 13), or a program that is protected, members
//! are ended one by one.

use std::collections::HashSet;

use super::{
    super::entry::Root,
    work::{Work, World},
};
use crate::{
    identity::Pid,
    os::{Signal, cgroup::Leaf},
    plan::{members::Evidence, observe::Snapshot},
};

impl Work {
    /// The leaf, where all that is in it may be ended at once.
    fn leaf_of_its_own(&self) -> Option<&Leaf> {
        self.leaf.as_ref().filter(|_| !self.leaf_is_shared)
    }

    /// Tells the members that are in the leaf: `cgroup.kill` is for them.
    pub(super) fn mark_leaf(&mut self, in_leaf: &HashSet<Pid>, shared: bool) {
        self.leaf_is_shared = shared;
        for member in &mut self.members {
            let is_in_it = in_leaf.contains(&member.identity.pid);
            member.in_leaf = !shared && is_in_it;
            if is_in_it && member.evidence == Evidence::Recorded {
                // What ties it to its root now says more than that something once did.
                member.evidence = Evidence::Leaf;
            }
        }
    }

    /// Lets go on what an earlier attempt, whose host died over it, has left frozen: frozen, nobody can obey SIGTERM.
    pub(super) fn thaw(&self) {
        // Shared or not: nobody but us freezes it, and those who must be left alone must not stay frozen.
        if let Some(leaf) = &self.leaf {
            let _ = leaf.freeze(false);
        }
    }

    /// Stops all members, so that nobody forks any more.
    pub(super) fn stop(&mut self) {
        if self.leaf_is_shared {
            // Somebody who is to be left was found only after it was frozen.
            self.thaw();
        }
        let frozen = self.leaf_of_its_own().is_some_and(|leaf| leaf.freeze(true).is_ok());
        for member in self.alive().filter(|member| !(frozen && member.in_leaf)) {
            member.signal(Signal::STOP);
        }
    }

    /// Whether nobody forks any more, by what the last snapshot shows.
    pub(super) fn is_still(&self, last: &Snapshot) -> bool {
        let leaf_is_still = self.leaf_of_its_own().is_none_or(Leaf::is_frozen);
        self.members.iter().filter(|member| member.can_be_ended()).all(|member| {
            (member.in_leaf && leaf_is_still)
                || last.get(member.identity.pid).is_none_or(|stat| {
                    stat.is_stopped() || stat.is_zombie() || stat.is_uninterruptible()
                })
        })
    }

    /// SIGKILL for all members; through the leaf for those in it, and whoever they are forking.
    pub(super) fn kill(&mut self) {
        let killed = self.leaf_of_its_own().is_some_and(|leaf| match leaf.kill() {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{error}: its members are killed one by one");
                false
            }
        });
        for member in self.alive() {
            if killed && member.in_leaf {
                member.mark_killed();
            } else {
                member.signal(Signal::KILL);
            }
        }
        // SIGKILL ends what is frozen; but one that survives in the kernel must not stay frozen when it wakes.
        self.thaw();
    }

    /// Removes the leaf once everybody is dead.
    pub(super) fn remove_leaf(&self) {
        if let Some(leaf) = self.leaf.as_ref().filter(|_| self.members.iter().all(|m| m.dead)) {
            leaf.remove();
        }
    }
}

/// The recorded leaf. One that cannot be looked at is told of: its members may be known by other evidence.
pub(super) fn open_leaf(world: &World<'_>, root: &Root) -> Option<Leaf> {
    Leaf::open(root.cgroup.as_ref()?, world.observer.uid).unwrap_or_else(|error| {
        tracing::error!("{error}: its members are looked for by other evidence");
        None
    })
}
