//! Settles dead roots of this instance, and ends its trees, together with the other threads and
//! instances that do so.
//!
//! A root is settled once: the thread that has reserved it ([`Tracked::begin`]) records its end, or
//! ends its tree. A tree that another instance has claimed is left to that instance for as long as
//! an end may take.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    exit_statuses::STATUS_PAUSE,
    foreign_claims::{self, CLAIM_PAUSE},
    own_trees, release,
    root_exit::{self, Unsettled},
};
use crate::{
    error::Result,
    model::{EndPlan, EndReason, InstanceId, ProcessId, Report, RuleKey},
    store::TakeOver,
    tracker::{
        core::Core,
        runtime::{
            cause::Cause,
            pending_writes::Waiting,
            tracked::{Dead, Tracked},
        },
    },
};

/// Time, besides the grace, within which another thread or instance ends a tree and records that:
/// the cap on the grace, and a second for each kill.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);

/// Records the ends of processes that have died, and ends the processes that they left. Processes
/// that another thread is ending are left to that thread, and trees that another instance is ending
/// are left to that instance.
///
/// If a status is not available yet, waits for it for a while: in the monitor's list if the monitor
/// is running, here otherwise.
pub(in crate::tracker) fn settle(core: &Arc<Core>, dead: &[Dead]) {
    let mine: Vec<Dead> = dead.iter().filter(|(entry, _)| entry.begin()).cloned().collect();
    settle_begun(core, &mine);
}

/// Does the same for processes that were reserved by [`Tracked::begin`].
fn settle_begun(core: &Arc<Core>, mine: &[Dead]) {
    if mine.is_empty() {
        return;
    }
    let since = Instant::now();
    let mine: Vec<Waiting> = mine.iter().map(|dead| (dead.clone(), since)).collect();
    let waiting = settle_known(core, mine);
    wait_for_statuses(core, waiting);
}

/// Settles processes whose statuses are known, or have been waited for long enough; returns the
/// others.
fn settle_known(core: &Arc<Core>, mine: Vec<Waiting>) -> Vec<Waiting> {
    let Unsettled { waiting, hiding } = root_exit::settle_known(core, mine);
    end_hiding(core, hiding);
    waiting
}

/// Ends trees whose task cgroups contain live processes that cannot be seen. Those have no rows, so
/// the root's row stays until the cgroup is empty.
fn end_hiding(core: &Arc<Core>, entries: Vec<Arc<Tracked>>) {
    if entries.is_empty() {
        return;
    }
    for entry in &entries {
        entry.give_up();
    }
    let theirs = Arc::clone(core);
    // Survivors are logged, and stay in the ledger.
    let work = move || drop(end_entries(&theirs, &Cause::stray(), &entries, &EndPlan::new()));
    if core.passes.is_monitoring() {
        core.threads.run("procledger-strays", work);
    } else {
        work();
    }
}

/// Waits for statuses that were not available at once, or passes them to the monitor.
fn wait_for_statuses(core: &Arc<Core>, mut waiting: Vec<Waiting>) {
    if waiting.is_empty() {
        return;
    }
    if core.passes.is_monitoring() {
        core.pending.statuses.extend(waiting);
        return core.registry.deaths.wake();
    }
    while !waiting.is_empty() {
        std::thread::sleep(STATUS_PAUSE);
        waiting = settle_known(core, waiting);
    }
}

/// Repeats, for the monitor, all checks that cannot be awaited on a file descriptor.
pub(in crate::tracker) fn recheck_pending(core: &Arc<Core>) {
    let waiting = core.pending.statuses.take();
    let waiting = settle_known(core, waiting);
    core.pending.statuses.extend(waiting);
    settle_claimed(core, &[]);
    release::finish_late(core);
}

/// Continues the waits of the monitor after it has stopped, for as long as the monitor would have
/// waited.
pub(in crate::tracker) fn settle_waiting(core: &Arc<Core>) {
    let waiting = core.pending.statuses.take();
    wait_for_statuses(core, waiting);
}

/// Settles dead roots of ours that another instance was ending when they died. Roots whose
/// claimants are still at work are kept for a later call; for the roots in `force` the claims are
/// taken over as well.
pub(in crate::tracker) fn settle_claimed(core: &Arc<Core>, force: &[Arc<Tracked>]) {
    let waiting = core.pending.claimed.take();
    if waiting.is_empty() {
        return;
    }
    let rows: Vec<ProcessId> = waiting.iter().map(|(entry, _)| entry.root.row).collect();
    let Ok(claimants) = core.store.claimants(&rows) else {
        return core.pending.claimed.extend(waiting);
    };
    let mut dead: HashMap<InstanceId, bool> = HashMap::new();
    let mut free = Vec::new();
    for root in waiting {
        if root.0.is_over() {
            continue;
        }
        let claimant = claimants.get(&root.0.root.row).copied();
        let goes_on = match claimant {
            None => true,
            Some(by) if by == core.instance.id => false,
            Some(by) => {
                force.iter().any(|entry| Arc::ptr_eq(entry, &root.0))
                    || *dead.entry(by).or_insert_with(|| foreign_claims::is_dead_claimant(core, by))
            }
        };
        if goes_on && foreign_claims::take_back(core, &root.0, claimant) {
            free.push(root);
        } else {
            core.pending.claimed.push(root);
        }
    }
    settle_begun(core, &free);
}

/// Ends trees of this instance at its own request; the settings of the plan replace those of the
/// jobs.
pub(in crate::tracker) fn terminate_entries(
    core: &Arc<Core>,
    entries: &[Arc<Tracked>],
    plan: &EndPlan,
) -> Result<Report> {
    core.instance.check_usable()?;
    plan.check()?;
    let cause =
        Cause { reason: EndReason::Terminated, leak: None, rule: RuleKey::OwnerAsked.into() };
    Ok(end_entries(core, &cause, entries, plan))
}

/// Ends trees of this instance, even when the claim cannot be written (invariant 10).
///
/// A tree that another thread or instance is ending is left to it for as long as an end may take.
/// After that, a tree that another instance has claimed is ended here, since a hanging instance
/// must not keep an owner's processes alive.
pub(in crate::tracker) fn end_entries(
    core: &Arc<Core>,
    cause: &Cause,
    entries: &[Arc<Tracked>],
    plan: &EndPlan,
) -> Report {
    let grace = entries.iter().map(|entry| entry.root.asking_time()).max().unwrap_or_default();
    let deadline = Instant::now() + OTHERS_LIMIT + grace;
    let (mine, busy): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.begin());
    // 1. End trees that are free, and trees that a dead instance had claimed.
    let (mut claimed, mut report) =
        own_trees::end_free(core, cause, &mine, TakeOver::default(), plan);
    leave_to_keepers(core, &mine);
    // 2. Wait for trees that other instances are ending.
    while !claimed.is_empty() {
        let late = Instant::now() >= deadline;
        let (left, found) = end_what_is_free(core, cause, claimed, late, plan);
        report.absorb(found);
        claimed = left;
        if late {
            break;
        }
        if !claimed.is_empty() {
            std::thread::sleep(CLAIM_PAUSE);
        }
    }
    // 3. Wait for trees that other threads are ending, or other instances after the root has died.
    for entry in busy {
        while !entry.wait_over(deadline.min(Instant::now() + CLAIM_PAUSE))
            && Instant::now() < deadline
        {
            if !core.passes.is_monitoring() {
                settle_claimed(core, &[]);
            }
        }
        if !entry.is_over() {
            settle_claimed(core, std::slice::from_ref(entry));
        }
    }
    report
}

/// Checks once the trees that other instances were ending: ends those that are free now, or all of
/// them with `force`. Returns the others, and the outcomes of the ended ones.
fn end_what_is_free(
    core: &Arc<Core>,
    cause: &Cause,
    mut claimed: Vec<Arc<Tracked>>,
    force: bool,
    plan: &EndPlan,
) -> (Vec<Arc<Tracked>>, Report) {
    if !core.passes.is_monitoring() {
        settle(core, &dead_among(core, claimed.iter().cloned()));
        settle_claimed(core, &[]);
    }
    claimed.retain(|entry| !entry.is_over());
    let rows: Vec<ProcessId> = claimed.iter().map(|entry| entry.root.row).collect();
    let Ok(claimants) = core.store.claimants(&rows) else { return (claimed, Report::default()) };
    let is_held = |entry: &Arc<Tracked>| {
        let other = claimants.get(&entry.root.row).filter(|by| **by != core.instance.id);
        other.is_some_and(|by| !foreign_claims::is_dead_claimant(core, *by))
    };
    let (held, free): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|entry| !force && is_held(entry));
    let (begun, busy): (Vec<_>, Vec<_>) = free.iter().partition(|entry| entry.begin());
    let over = TakeOver { dead: &[], live: force };
    let (mut left, report) = own_trees::end_free(core, cause, &begun, over, plan);
    leave_to_keepers(core, &begun);
    left.extend(busy.into_iter().cloned());
    left.extend(held);
    (left, report)
}

/// Settles the ends of roots with a keeper at once, instead of leaving them to the next pass: if a
/// tree keeps forking, it may be unknown whether all of it was seen, but the keeper ends the rest.
fn leave_to_keepers(core: &Arc<Core>, entries: &[&Arc<Tracked>]) {
    let with_keeper = entries.iter().filter(|entry| entry.keeper.is_some());
    let dead = dead_among(core, with_keeper.map(|entry| Arc::clone(entry)));
    settle(core, &dead);
    for (entry, _) in dead {
        entry.wait_over(Instant::now() + OTHERS_LIMIT + entry.root.asking_time());
    }
}

/// Returns those of the given processes that have died.
pub(in crate::tracker) fn dead_among(
    core: &Core,
    entries: impl Iterator<Item = Arc<Tracked>>,
) -> Vec<Dead> {
    entries
        .filter_map(|entry| {
            let fd = entry.open_pidfd(&core.proc, core.pid_scope())?;
            fd.is_dead().unwrap_or(false).then_some((entry, fd))
        })
        .collect()
}
