//! Ends trees by their task cgroups: one write stops or kills all processes in a cgroup, including
//! those that are being forked.
//!
//! This is done only if all processes in the task cgroup are to be ended. If the cgroup contains a
//! protected program, the acting process, an ancestor of it, or another live instance, as after a
//! task has restarted its host (invariant 13), members are ended one by one.
//!
//! A list of members is not conclusive: a task may nest cgroups that cannot be listed, or move
//! between cgroups while they are listed. The kernel reports whether a task cgroup contains any
//! live process, as `populated` in its `cgroup.events`. If it contains more than the known members,
//! the cgroup of each process is read. Processes that are still not found are killed through the
//! task cgroup; if that is not allowed, they are survivors.

use std::time::{Duration, Instant};

use super::{
    member::Member,
    state::{EndContext, TreeRun, open_task_cgroup},
};
use crate::{
    error::Result,
    model::Cgroup,
    policy::exemption::Exempt,
    sys::{
        Pinned, Probe, Signal,
        cgroup::{Paths, TaskCgroup, open_up_instance_cgroup},
        snapshot::Snapshot,
    },
    tracker::membership::task_cgroup::{InTaskCgroup, list},
};

/// Limit on kills of processes that cannot be seen. `cgroup.kill` kills all processes at once; the
/// second kill is for those that were moved into the cgroup meanwhile.
const UNSEEN_KILLS: u32 = 2;

impl TreeRun {
    /// Returns the task cgroup if all processes in it may be ended at once, which requires that a
    /// scan has shown which these are.
    fn task_cgroup_of_its_own(&self) -> Option<&TaskCgroup> {
        self.task_cgroup
            .as_ref()
            .filter(|_| self.task_cgroup_is_known && !self.task_cgroup_is_shared)
    }

    /// Lists the processes that are in the task cgroup now.
    pub(super) fn list_task_cgroup(
        &mut self,
        context: &EndContext<'_>,
        snapshot: &Snapshot,
    ) -> Result<InTaskCgroup> {
        let Some(task_cgroup) = &self.task_cgroup else { return Ok(InTaskCgroup::default()) };
        // A shared cgroup cannot be ended as a whole, so none of its processes may be missed.
        let found = list(
            context.proc,
            snapshot,
            task_cgroup,
            self.task_cgroup_is_known && self.task_cgroup_is_shared,
        )?;
        self.task_cgroup_has_gaps = found.has_gaps;
        self.task_cgroup_is_closed = found.is_closed;
        Ok(found)
    }

    /// Restores access to cgroups that a task has closed: its own, those nested in it, or the
    /// instance cgroup. Returns whether there were any.
    pub(super) fn open_up_task_cgroup(&mut self, context: &EndContext<'_>) -> bool {
        if self.task_cgroup_error.is_some()
            && let Some(Cgroup { path, .. }) = &self.root.cgroup
            && let Some(instance_cgroup) = path.parent()
        {
            open_up_instance_cgroup(instance_cgroup, context.observer.uid);
            (self.task_cgroup, self.task_cgroup_error) = open_task_cgroup(context, &self.root);
            return self.task_cgroup.is_some();
        }
        let Some(task_cgroup) = self.task_cgroup.as_ref().filter(|task_cgroup| {
            self.task_cgroup_is_closed || task_cgroup.is_populated().is_none()
        }) else {
            return false;
        };
        task_cgroup.open_up();
        true
    }

    /// Returns whether the kernel reports more processes in the task cgroup than are known.
    pub(super) fn hides(&self) -> bool {
        if self.task_cgroup_error.is_some() {
            return true;
        }
        if self.task_cgroup.as_ref().is_none_or(TaskCgroup::is_empty) {
            return false;
        }
        let is_accounted_for = self.task_cgroup_is_known
            && (self.task_cgroup_is_shared
                || self.members.iter().any(|member| member.is_alive() && member.is_listed));
        !is_accounted_for || self.task_cgroup_has_gaps
    }

    /// Kills the processes in the task cgroup that cannot be seen, unless it contains a process
    /// that must be left running. Returns whether that was attempted.
    fn kill_unseen(&mut self, context: &EndContext<'_>) -> bool {
        if self.unseen_kills >= UNSEEN_KILLS || !self.hides() || self.may_hold_what_is_left(context)
        {
            return false;
        }
        // The unseen process may be a recorded member that cannot be verified: a process that
        // cannot be identified is left running and reported.
        if !self.unknown.is_empty() {
            return false;
        }
        let Some(task_cgroup) =
            self.task_cgroup.as_ref().filter(|task_cgroup| is_free_of_others(context, task_cgroup))
        else {
            return false;
        };
        self.unseen_kills += 1;
        match task_cgroup.kill() {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{error}: processes in it that cannot be seen are left running");
                false
            }
        }
    }

    /// Returns whether the unseen processes in the task cgroup may include some that are left on
    /// purpose, as far as is known.
    fn may_hold_what_is_left(&self, context: &EndContext<'_>) -> bool {
        let is_there = |identity| {
            let probe = Pinned::probe(context.proc, context.observer.scope, identity);
            !matches!(probe, Probe::Gone | Probe::Zombie(_))
        };
        self.exemptions.all
            || !(self.exemptions.names.is_empty() && context.protected.is_empty())
            || self.exemptions.before.iter().any(is_there)
    }

    /// Describes the processes that are left in the task cgroup and cannot be seen, and what to do,
    /// in one line.
    pub(super) fn outlived(&self) -> Option<String> {
        if let Some(error) = &self.task_cgroup_error {
            return Some(format!("{error}: restore its owner's access to it"));
        }
        let task_cgroup = self.task_cgroup.as_ref().filter(|_| self.hides())?;
        let path = task_cgroup.record().path.display();
        Some(if self.unseen_kills > 0 {
            format!(
                "the cgroup `{path}` still contains processes after cgroup.kill: see its cgroup.procs, and those of the cgroups nested in it"
            )
        } else {
            format!(
                "the cgroup `{path}` contains processes that cannot be listed, and is not killed as a whole since other processes in it may have to be left running: as root, end them by the cgroup.procs of the cgroups nested in it"
            )
        })
    }

    /// Marks the members that are in the task cgroup, which `cgroup.kill` reaches.
    pub(super) fn mark_task_cgroup(&mut self, in_task_cgroup: &InTaskCgroup, exempt: &Exempt<'_>) {
        let mut in_it = in_task_cgroup.pids.iter().chain(&in_task_cgroup.doubtful);
        let shared = self.has_protected() || in_it.any(|pid| exempt.contains(*pid));
        self.task_cgroup_is_shared = shared;
        self.task_cgroup_is_known = true;
        for member in &mut self.members {
            let is_in_it = in_task_cgroup.pids.contains(&member.pid());
            member.is_listed = is_in_it;
            member.in_task_cgroup = !shared && is_in_it;
        }
    }

    /// Thaws processes that an earlier attempt left frozen because its host died, or that a task
    /// froze itself: a frozen process cannot respond to SIGTERM.
    pub(super) fn thaw_all(&self) {
        if let Some(task_cgroup) = &self.task_cgroup {
            task_cgroup.thaw();
        }
    }

    /// Thaws the processes that we froze.
    pub(super) fn thaw(&self) {
        // Done even if the cgroup is shared: only this program freezes it, and processes that are
        // left running must not stay frozen.
        if let Some(task_cgroup) = &self.task_cgroup {
            let _ = task_cgroup.freeze(false);
        }
    }

    /// Stops all members, so that none can fork any more.
    pub(super) fn stop(&mut self) {
        if self.task_cgroup_is_shared {
            // A process that must be left running was found only after the cgroup was frozen.
            self.thaw();
        }
        let frozen = self
            .task_cgroup_of_its_own()
            .is_some_and(|task_cgroup| task_cgroup.freeze(true).is_ok());
        for member in self.alive().filter(|member| !(frozen && member.in_task_cgroup)) {
            member.signal(Signal::STOP);
        }
    }

    /// Returns whether no member can fork any more, according to the last snapshot.
    pub(super) fn is_still(&self, last: &Snapshot) -> bool {
        let task_cgroup_is_still = self.task_cgroup_of_its_own().is_none_or(TaskCgroup::is_frozen);
        self.members.iter().filter(|member| member.can_be_ended()).all(|member| {
            (member.in_task_cgroup && task_cgroup_is_still)
                || last.get(member.pid()).is_none_or(|stat| {
                    stat.is_stopped() || stat.is_zombie() || stat.is_uninterruptible()
                })
        })
    }

    /// Kills all members; those in the task cgroup through the cgroup, including processes that are
    /// being forked.
    pub(super) fn kill(&mut self) {
        let killed =
            self.task_cgroup_of_its_own().is_some_and(|task_cgroup| match task_cgroup.kill() {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!("{error}: killing its members one by one");
                    false
                }
            });
        for member in self.alive() {
            if killed && member.in_task_cgroup {
                member.mark_killed();
            } else {
                member.signal(Signal::KILL);
            }
        }
        // SIGKILL ends frozen processes, but a process that is stuck in the kernel must not stay
        // frozen when it wakes.
        self.thaw();
    }

    /// Removes the task cgroup once all members are dead.
    pub(super) fn remove_task_cgroup(&self) {
        if let Some(task_cgroup) =
            self.task_cgroup.as_ref().filter(|_| !self.members.iter().any(Member::is_alive))
        {
            task_cgroup.remove();
        }
    }
}

/// Kills processes that cannot be seen through their task cgroups, and waits until these are empty,
/// at most `limit`. Returns whether any kill was attempted.
pub(super) fn kill_unseen(
    context: &EndContext<'_>,
    trees: &mut [TreeRun],
    limit: Duration,
) -> bool {
    let struck: Vec<bool> = trees.iter_mut().map(|tree| tree.kill_unseen(context)).collect();
    let deadline = Instant::now() + limit;
    for (tree, _) in trees.iter().zip(&struck).filter(|(_, struck)| **struck) {
        if let Some(task_cgroup) = &tree.task_cgroup {
            task_cgroup.wait_empty(deadline.saturating_duration_since(Instant::now()));
        }
    }
    struck.contains(&true)
}

/// Returns whether a task cgroup contains neither the acting process, nor an ancestor of it, nor
/// another live instance or one of its processes.
fn is_free_of_others(context: &EndContext<'_>, task_cgroup: &TaskCgroup) -> bool {
    let Ok(paths) = Paths::read() else { return false };
    context
        .untouchable()
        .all(|pid| paths.is_in(context.proc, pid, &task_cgroup.record().path) == Some(false))
}
