//! Ending by leaf: one write stops or kills all that is in it, whoever they are forking.
//!
//! It is used only where everybody in the leaf is to be ended. Where the acting process, an ancestor of it, or another live
//! instance sits in the leaf, as after a task has restarted its host (invariant 13), or a program that is protected, members
//! are ended one by one.
//!
//! A list of members is not the last word: a task may nest cgroups that cannot be listed, or move from one to another while
//! they are. Whether anything lives in a leaf is what the kernel says by `populated` in its `cgroup.events`. Where that is
//! more than the members that are known, each process is asked which cgroup it is in; what is still not found is killed
//! through the leaf, and where that may not be, it is a survivor.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::state::{Work, World};
use crate::{
    error::Result,
    identity::Pid,
    model::Cgroup,
    policy::membership::Evidence,
    sys::{
        Pinned, Probe, Proc, Signal,
        cgroup::{Leaf, Paths, open_up_branch},
        snapshot::Snapshot,
    },
    tracker::runtime::tracked::Root,
};

/// `cgroup.kill` strikes all at once; the second one is for what was moved in meanwhile.
const UNSEEN_KILLS: u32 = 2;

/// The processes in a leaf.
#[derive(Debug, Default)]
pub(in crate::tracker) struct InLeaf {
    pub(in crate::tracker) pids: HashSet<Pid>,
    /// Processes of which that cannot be determined.
    doubtful: HashSet<Pid>,
    /// Some could not be listed, or are in another PID namespace.
    has_gaps: bool,
    /// A part of it may not be looked at.
    is_closed: bool,
}

/// Lists the processes in a leaf; where not all can be listed, or where `search` is set, by asking each process of the snapshot.
///
/// Called after the snapshot was taken: a pid of both is the same process in both.
pub(in crate::tracker) fn list(
    proc: &Proc,
    snapshot: &Snapshot,
    leaf: &Leaf,
    search: bool,
) -> Result<InLeaf> {
    let listing = leaf.list()?;
    // A process that moves between nested cgroups is in none of the lists.
    let misses = listing.pids.is_empty() && !leaf.is_empty();
    let mut found = InLeaf {
        pids: listing.pids.into_iter().collect(),
        has_gaps: listing.foreign,
        is_closed: !listing.complete,
        ..InLeaf::default()
    };
    if listing.complete && !misses && !search {
        return Ok(found);
    }
    let paths = Paths::read()?;
    for stat in snapshot.iter().filter(|stat| !stat.is_kernel_thread()) {
        match paths.is_in(proc, stat.pid, &leaf.record().path) {
            Some(true) => drop(found.pids.insert(stat.pid)),
            Some(false) => {}
            None => drop(found.doubtful.insert(stat.pid)),
        }
    }
    found.has_gaps |= !found.doubtful.is_empty();
    Ok(found)
}

impl Work {
    /// The leaf, where all that is in it may be ended at once: only where a look has shown what that is.
    fn leaf_of_its_own(&self) -> Option<&Leaf> {
        self.leaf.as_ref().filter(|_| self.leaf_is_known && !self.leaf_is_shared)
    }

    /// Lists the processes in the leaf now.
    pub(super) fn list_leaf(&mut self, world: &World<'_>, snapshot: &Snapshot) -> Result<InLeaf> {
        let Some(leaf) = &self.leaf else { return Ok(InLeaf::default()) };
        // One that is shared cannot be ended as a whole: no process in it may be missed.
        let found = list(world.proc, snapshot, leaf, self.leaf_is_known && self.leaf_is_shared)?;
        self.leaf_has_gaps = found.has_gaps;
        self.leaf_is_closed = found.is_closed;
        Ok(found)
    }

    /// Gives access again to what a task has closed: the leaf, what is nested in it, or the branch. Whether there was any.
    pub(super) fn open_up_leaf(&mut self, world: &World<'_>) -> bool {
        if self.leaf_error.is_some()
            && let Some(Cgroup { path, .. }) = &self.root.cgroup
            && let Some(branch) = path.parent()
        {
            open_up_branch(branch, world.observer.uid);
            (self.leaf, self.leaf_error) = open_leaf(world, &self.root);
            return self.leaf.is_some();
        }
        let Some(leaf) =
            self.leaf.as_ref().filter(|leaf| self.leaf_is_closed || leaf.is_populated().is_none())
        else {
            return false;
        };
        leaf.open_up();
        true
    }

    /// Whether the kernel counts more in the leaf than is known.
    pub(super) fn hides(&self) -> bool {
        if self.leaf_error.is_some() {
            return true;
        }
        if self.leaf.as_ref().is_none_or(Leaf::is_empty) {
            return false;
        }
        let is_accounted_for = self.leaf_is_known
            && (self.leaf_is_shared
                || self.members.iter().any(|member| member.is_alive() && member.is_listed));
        !is_accounted_for || self.leaf_has_gaps
    }

    /// Kills what is in the leaf and cannot be seen, unless it holds what is to be left. Whether that was tried.
    fn kill_unseen(&mut self, world: &World<'_>) -> bool {
        if self.unseen_kills >= UNSEEN_KILLS || !self.hides() || self.may_hold_what_is_left(world) {
            return false;
        }
        // A recorded member that cannot be verified may be what is in there: unknown is left as it is, and reported.
        if !self.unknown.is_empty() {
            return false;
        }
        let Some(leaf) = self.leaf.as_ref().filter(|leaf| is_free_of_others(world, leaf)) else {
            return false;
        };
        self.unseen_kills += 1;
        match leaf.kill() {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{error}: what is in it and cannot be seen stays");
                false
            }
        }
    }

    /// Whether what cannot be seen in the leaf may be left on purpose, for all that is known.
    fn may_hold_what_is_left(&self, world: &World<'_>) -> bool {
        let is_there = |identity| {
            let probe = Pinned::probe(world.proc, world.observer.place, identity);
            !matches!(probe, Probe::Gone | Probe::Zombie(_))
        };
        self.leave.all
            || !(self.leave.names.is_empty() && world.protected.is_empty())
            || self.leave.before.iter().any(is_there)
    }

    /// What is left in the leaf and cannot be seen, in one line that says what to do.
    pub(super) fn outlived(&self) -> Option<String> {
        if let Some(error) = &self.leaf_error {
            return Some(format!("{error}: give its owner access to it again"));
        }
        let leaf = self.leaf.as_ref().filter(|_| self.hides())?;
        let path = leaf.record().path.display();
        Some(if self.unseen_kills > 0 {
            format!(
                "the cgroup `{path}` still holds processes after cgroup.kill: look at its cgroup.procs, and at those nested in it"
            )
        } else {
            format!(
                "the cgroup `{path}` holds processes that cannot be listed, and is not killed as a whole since others in it may have to be left: end them by the cgroup.procs nested in it, as root"
            )
        })
    }

    /// Tells the members that are in the leaf: `cgroup.kill` is for them.
    pub(super) fn mark_leaf(&mut self, in_leaf: &InLeaf, exempt: &HashSet<Pid>) {
        let shared = self.has_protected()
            || !in_leaf.pids.is_disjoint(exempt)
            || !in_leaf.doubtful.is_disjoint(exempt);
        self.leaf_is_shared = shared;
        self.leaf_is_known = true;
        for member in &mut self.members {
            let is_in_it = in_leaf.pids.contains(&member.identity.pid);
            member.is_listed = is_in_it;
            member.in_leaf = !shared && is_in_it;
            if is_in_it && member.evidence == Evidence::Recorded {
                // What ties it to its root now says more than that something once did.
                member.evidence = Evidence::Leaf;
            }
        }
    }

    /// Lets go on what an earlier attempt, whose host died over it, has left frozen, or what a task has frozen itself: frozen,
    /// nothing can obey SIGTERM.
    pub(super) fn thaw_all(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.thaw();
        }
    }

    /// Lets go on what we have frozen.
    fn thaw(&self) {
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

/// Kills through their leaves what cannot be seen, and waits until these are empty, at most `limit`. Whether any was tried.
pub(super) fn kill_unseen(world: &World<'_>, works: &mut [Work], limit: Duration) -> bool {
    let struck: Vec<bool> = works.iter_mut().map(|work| work.kill_unseen(world)).collect();
    let deadline = Instant::now() + limit;
    for (work, _) in works.iter().zip(&struck).filter(|(_, struck)| **struck) {
        if let Some(leaf) = &work.leaf {
            leaf.wait_empty(deadline.saturating_duration_since(Instant::now()));
        }
    }
    struck.contains(&true)
}

/// Whether neither the acting process, nor an ancestor of it, nor another live instance or anything of that one is in a leaf.
fn is_free_of_others(world: &World<'_>, leaf: &Leaf) -> bool {
    let Ok(paths) = Paths::read() else { return false };
    let guarded =
        world.guards.iter().flat_map(|(instance, theirs)| theirs.iter().chain([instance]));
    let mut others = world.ancestors.iter().chain([&world.own]).chain(guarded);
    others.all(|&pid| paths.is_in(world.proc, pid, &leaf.record().path) == Some(false))
}

/// The recorded leaf, or why it cannot be opened: its members may be known by other evidence.
pub(super) fn open_leaf(world: &World<'_>, root: &Root) -> (Option<Leaf>, Option<String>) {
    let Some(record) = &root.cgroup else { return (None, None) };
    match Leaf::open(record, world.observer.uid) {
        Ok(leaf) => (leaf, None),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let why = format!("{error}{}", cause.unwrap_or_default());
            tracing::error!("{why}: its members are looked for by other evidence");
            (None, Some(why))
        }
    }
}
