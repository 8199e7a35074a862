//! Claims of other instances on rows that are handled here.
//!
//! A claim is valid only while its claimant lives. An instance that claims rows and dies while ending them (a `kill` that is
//! interrupted by SIGKILL, a reaper that crashes) leaves them `ending`; the next instance that acts takes the claim over. The
//! owner of a root does so as soon as the root is dead: until then it holds the zombie, which pins the PID that names the
//! session, and the status is in the row.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::root_exit::Dead;
use crate::{
    error::Result,
    identity::Reach,
    model::{
        Because, DeadInstance, EndReason, ExitStatus, InstanceId, InstanceRecord, ProcessId,
        ProcessRecord, Settled, Verdict,
    },
    policy::membership::Evidence,
    sys::{Pinned, Probe, file_lock::LockState},
    tracker::{
        core::Core,
        runtime::{
            liveness::{Judge, Life, lock_state},
            lock::lock,
            tracked::Entry,
        },
    },
};

/// Pause between two checks of another instance's claim: each reads one row, and one lock where the row is still claimed.
pub(in crate::tracker) const CLAIM_PAUSE: Duration = Duration::from_millis(50);
/// Limit on waiting for an owner: once scheduled, it records the status of its child within a millisecond.
const NOTED_WITHIN: Duration = Duration::from_millis(200);
const NOTED_PAUSE: Duration = Duration::from_millis(1);

impl Core {
    /// Whether the claims of an instance are void. An instance that cannot be looked up keeps its claims.
    pub(in crate::tracker) fn is_dead_claimant(&self, claimant: InstanceId) -> bool {
        let other = claimant != self.instance.id;
        other
            && matches!(self.store.instance(claimant), Ok(Some(instance)) if self.holds_no_claim(&instance))
    }

    /// Whether an instance is dead, or has stopped, so that no claim is its own any more.
    ///
    /// Besides the cases in which an instance is dead (and its rows may be ended), a claim is void when the claimant's process
    /// is gone, even though a child that it forked holds a copy of its lock; and, for an instance of another PID namespace,
    /// whose identity is meaningless here, when its lock file is there and free, or when it has recorded its stop.
    fn holds_no_claim(&self, instance: &InstanceRecord) -> bool {
        let here = self.place();
        let reach = here.reach(&instance.identity.place);
        let Ok(all) = self.store.instances_to_judge() else { return false };
        match Judge::new(&self.store, &self.proc, here).judge(instance, &all) {
            Life::Dead(_) => true,
            Life::Alive => {
                reach == Reach::Here
                    && matches!(
                        Pinned::probe(&self.proc, here, &instance.identity),
                        Probe::Zombie(_) | Probe::Gone
                    )
            }
            Life::Unknown(_) => {
                let free = || matches!(lock_state(&self.store, instance), Ok(LockState::Free));
                instance.ledger_file == self.store.file()
                    && reach == Reach::Elsewhere
                    && (instance.stopped_at.is_some() || free())
            }
        }
    }

    /// Returns the instances that hold claims on live rows, and are dead.
    pub(in crate::tracker) fn dead_claimants(&self) -> Result<Vec<InstanceId>> {
        let others = self.store.other_claimants(self.instance.id)?;
        let dead = others.iter().filter(|other| self.holds_no_claim(other));
        Ok(dead.map(|other| other.id).collect())
    }

    /// As [`Core::dead_claimants`], for these rows.
    pub(in crate::tracker) fn dead_claimants_of(&self, rows: &[ProcessRecord]) -> Vec<InstanceId> {
        let mut claimants: Vec<InstanceId> = rows.iter().filter_map(|row| row.claimed_by).collect();
        claimants.sort_unstable();
        claimants.dedup();
        claimants.retain(|claimant| self.is_dead_claimant(*claimant));
        claimants
    }

    /// Returns the claimants of these rows, other than this instance, that are dead.
    pub(in crate::tracker) fn dead_among_claimants(
        &self,
        rows: &[ProcessId],
    ) -> Result<Vec<InstanceId>> {
        let mut claimants: Vec<InstanceId> =
            self.store.claimants(rows)?.into_iter().flatten().collect();
        claimants.sort_unstable();
        claimants.dedup();
        claimants.retain(|claimant| self.is_dead_claimant(*claimant));
        Ok(claimants)
    }

    /// Gives back void claims of claimants that are not in `dead`; the rows of those are taken over by the orphan pass.
    pub(in crate::tracker) fn give_dead_claims_back(&self, dead: &[DeadInstance]) -> Result<u64> {
        let mut claimants = self.dead_claimants()?;
        claimants.retain(|claimant| !dead.iter().any(|dead| dead.id == *claimant));
        self.store.void_claims(&claimants)
    }

    /// Settles dead roots of ours that another instance was ending when they died. Roots whose claimants are still at work are
    /// kept for a later call; for the roots in `force` the claims are taken over as well.
    pub(in crate::tracker) fn settle_claimed(self: &Arc<Self>, force: &[Arc<Entry>]) {
        let waiting = std::mem::take(&mut *lock(&self.claimed));
        if waiting.is_empty() {
            return;
        }
        let rows: Vec<ProcessId> = waiting.iter().map(|(entry, _)| entry.root.row).collect();
        let Ok(claimants) = self.store.claimants(&rows) else {
            return lock(&self.claimed).extend(waiting);
        };
        let mut dead: HashMap<InstanceId, bool> = HashMap::new();
        let mut free = Vec::new();
        for (root, claimant) in waiting.into_iter().zip(claimants) {
            if root.0.is_over() {
                continue;
            }
            let goes_on = match claimant {
                None => true,
                Some(by) if by == self.instance.id => false,
                Some(by) => {
                    force.iter().any(|entry| Arc::ptr_eq(entry, &root.0))
                        || *dead.entry(by).or_insert_with(|| self.is_dead_claimant(by))
                }
            };
            if goes_on && self.take_back(&root.0, claimant) {
                free.push(root);
            } else {
                lock(&self.claimed).push(root);
            }
        }
        self.settle_begun(&free);
    }

    /// Takes over the claim on a tree of ours. Its root is dead; if a person had requested that, the history says so.
    fn take_back(&self, entry: &Entry, claimant: Option<InstanceId>) -> bool {
        match self.store.take_back(entry.root.row, self.instance.id, claimant) {
            Ok(asked_by) => {
                if let Some(asked_by) = asked_by {
                    let rule = format!("asked by {asked_by}");
                    let because = Because { rule, evidence: Evidence::Root.to_string() };
                    entry.set_cause(Some((EndReason::Killed, Some(because))));
                }
                true
            }
            Err(error) => {
                tracing::error!("{error}; will be retried");
                false
            }
        }
    }

    /// Keeps those of these dead roots, whose rows did not end, that another instance is ending; returns for each whether it
    /// was kept.
    pub(in crate::tracker) fn keep_claimed(&self, roots: &[&Dead]) -> Vec<bool> {
        let rows: Vec<ProcessId> = roots.iter().map(|(entry, _)| entry.root.row).collect();
        let claimants = self.store.claimants(&rows).unwrap_or_else(|_| vec![None; rows.len()]);
        let mut kept = Vec::with_capacity(roots.len());
        for (root, claimant) in roots.iter().zip(claimants) {
            if claimant.is_some() {
                lock(&self.claimed).push((*root).clone());
            }
            kept.push(claimant.is_some());
        }
        if kept.contains(&true) && self.is_monitoring() {
            self.wake_monitor();
        }
        kept
    }

    /// Waits until the owners of roots that were ended here have learned the statuses and recorded them, so that the history
    /// has the status when a `kill` returns. An owner that is dead records nothing.
    pub(in crate::tracker) fn await_noted(
        &self,
        owners: &HashMap<ProcessId, InstanceId>,
        settled: &[Settled],
    ) {
        let unobserved = |settled: &&Settled| matches!(&settled.verdict, Verdict::Ended(end) if end.status == ExitStatus::Unobserved);
        let mut rows: Vec<ProcessId> = (settled.iter().filter(unobserved))
            .map(|settled| settled.process)
            .filter(|row| owners.get(row).is_some_and(|owner| *owner != self.instance.id))
            .collect();
        if rows.is_empty() {
            return;
        }
        let mut living: HashMap<InstanceId, bool> = HashMap::new();
        rows.retain(|row| {
            let owner = owners[row];
            *living.entry(owner).or_insert_with(|| !self.is_dead_claimant(owner))
        });
        let deadline = Instant::now() + NOTED_WITHIN;
        while !rows.is_empty() && Instant::now() < deadline {
            std::thread::sleep(NOTED_PAUSE);
            rows.retain(|row| matches!(self.store.has_status(*row), Ok(false)));
        }
    }
}
