//! Handles claims of other instances on rows that are handled here.
//!
//! A claim is valid only while its claimant is alive. An instance that claims rows and dies while
//! ending them (a `kill` that is interrupted by SIGKILL, a reaper that crashes) leaves them
//! `ending`; the next instance that acts takes the claim over. The owner of a root does so as soon
//! as the root is dead: until then it holds the zombie, which pins the PID that names the session,
//! and the status is in the row.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    identity::Reach,
    model::{
        DeadInstance, EndReason, Evidence, ExitStatus, InstanceId, InstanceRecord, Justification,
        ProcessId, ProcessRecord, Rule, Settled, Verdict,
    },
    sys::file_lock::LockState,
    tracker::{
        core::Core,
        runtime::{
            liveness::{Liveness, LivenessCheck, lock_state},
            tracked::{Dead, Tracked},
        },
    },
};

/// Pause between two checks of another instance's claim. Each check reads one row and, if the row
/// is still claimed, one lock.
pub(in crate::tracker) const CLAIM_PAUSE: Duration = Duration::from_millis(50);
/// Limit on waiting for an owner: once scheduled, it records the status of its child within a
/// millisecond.
const NOTED_WITHIN: Duration = Duration::from_millis(200);
const NOTED_PAUSE: Duration = Duration::from_millis(1);

/// Returns whether the claims of an instance are void. An instance that cannot be looked up keeps
/// its claims.
pub(in crate::tracker) fn is_dead_claimant(core: &Core, claimant: InstanceId) -> bool {
    let other = claimant != core.instance.id;
    other
        && matches!(core.store.instance(claimant), Ok(Some(instance)) if holds_no_claim(core, &instance))
}

/// Returns whether an instance is dead, or has stopped, so that its claims are void.
///
/// Claims are void in all cases in which an instance counts as dead (and its rows may be ended),
/// and in two more: if the claimant's process is gone although a child that it forked holds a copy
/// of its lock; and, for an instance of another PID namespace, whose identity is meaningless here,
/// if its lock file exists and is free or its stop is recorded.
fn holds_no_claim(core: &Core, instance: &InstanceRecord) -> bool {
    let here = core.pid_scope();
    let reach = here.reach(&instance.identity.scope);
    let Ok(all) = core.store.instances_to_check() else { return false };
    match LivenessCheck::new(&core.store, &core.proc, here).of(instance, &all) {
        Liveness::Dead(_) | Liveness::LockOutlives => true,
        Liveness::Alive => false,
        Liveness::Unknown(_) => {
            let free = || matches!(lock_state(&core.store, instance), Ok(LockState::Free));
            instance.ledger_file == core.store.file()
                && reach == Reach::Elsewhere
                && (instance.stopped_at.is_some() || free())
        }
    }
}

/// Returns the dead instances that hold claims on live rows.
pub(in crate::tracker) fn dead_claimants(core: &Core) -> Result<Vec<InstanceId>> {
    let others = core.store.other_claimants(core.instance.id)?;
    let dead = others.iter().filter(|other| holds_no_claim(core, other));
    Ok(dead.map(|other| other.id).collect())
}

/// Does the same as [`dead_claimants`] for the given rows.
pub(in crate::tracker) fn dead_claimants_of(
    core: &Core,
    rows: &[ProcessRecord],
) -> Vec<InstanceId> {
    let mut claimants: Vec<InstanceId> =
        rows.iter().filter_map(|row| row.life.claimed_by()).collect();
    claimants.sort_unstable();
    claimants.dedup();
    claimants.retain(|claimant| is_dead_claimant(core, *claimant));
    claimants
}

/// Returns the dead claimants of the given rows, without this instance.
pub(in crate::tracker) fn dead_among_claimants(
    core: &Core,
    rows: &[ProcessId],
) -> Result<Vec<InstanceId>> {
    let mut claimants: Vec<InstanceId> = core.store.claimants(rows)?.into_values().collect();
    claimants.sort_unstable();
    claimants.dedup();
    claimants.retain(|claimant| is_dead_claimant(core, *claimant));
    Ok(claimants)
}

/// Gives back void claims, except those of instances in `dead`, whose rows the orphan pass takes
/// over.
pub(in crate::tracker) fn give_dead_claims_back(core: &Core, dead: &[DeadInstance]) -> Result<u64> {
    let mut claimants = dead_claimants(core)?;
    claimants.retain(|claimant| !dead.iter().any(|dead| dead.id == *claimant));
    core.store.void_claims(&claimants)
}

/// Takes over the claim on a tree of ours whose root is dead. If a person had requested the end,
/// the history says so.
pub(in crate::tracker) fn take_back(
    core: &Core,
    entry: &Tracked,
    claimant: Option<InstanceId>,
) -> bool {
    match core.store.take_back(entry.root.row, core.instance.id, claimant) {
        Ok(asked_by) => {
            if let Some(asked_by) = asked_by {
                let because = Justification::new(&Rule::PersonAsked(asked_by), Evidence::Root);
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

/// Keeps for later the dead roots that another instance is ending, among those whose rows did not
/// end; returns their rows.
pub(in crate::tracker) fn keep_claimed(core: &Core, roots: &[&Dead]) -> HashSet<ProcessId> {
    let rows: Vec<ProcessId> = roots.iter().map(|(entry, _)| entry.root.row).collect();
    let claimants = core.store.claimants(&rows).unwrap_or_default();
    let kept: HashSet<ProcessId> = claimants.into_keys().collect();
    let are_kept = roots.iter().filter(|(entry, _)| kept.contains(&entry.root.row));
    core.pending.claimed.extend(are_kept.map(|root| (*root).clone()));
    if !kept.is_empty() && core.passes.is_monitoring() {
        core.registry.deaths.wake();
    }
    kept
}

/// Waits until the owners of roots that were ended here have recorded the statuses, so that the
/// history has them when a `kill` returns. A dead owner records nothing.
pub(in crate::tracker) fn await_noted(
    core: &Core,
    owners: &HashMap<ProcessId, InstanceId>,
    settled: &[Settled],
) {
    let unobserved = |settled: &&Settled| matches!(&settled.verdict, Verdict::Ended(end) if end.status == ExitStatus::Unobserved);
    let mut rows: Vec<ProcessId> = (settled.iter().filter(unobserved))
        .filter_map(|settled| settled.row.id())
        .filter(|row| owners.get(row).is_some_and(|owner| *owner != core.instance.id))
        .collect();
    if rows.is_empty() {
        return;
    }
    let mut living: HashMap<InstanceId, bool> = HashMap::new();
    rows.retain(|row| {
        let owner = owners[row];
        *living.entry(owner).or_insert_with(|| !is_dead_claimant(core, owner))
    });
    let deadline = Instant::now() + NOTED_WITHIN;
    while !rows.is_empty() && Instant::now() < deadline {
        std::thread::sleep(NOTED_PAUSE);
        rows.retain(|row| matches!(core.store.has_status(*row), Ok(false)));
    }
}
