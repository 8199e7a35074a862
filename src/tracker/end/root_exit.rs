//! Handles roots that ended by themselves: records the ends, and ends the processes that the roots
//! left.
//!
//! The order makes a crash harmless. The root's status is read while the root stays a zombie, which
//! pins the PID that names its session. A snapshot shows the processes that it left. One
//! transaction ends the root's row and records the strays, claimed by us, so that the next pass
//! finds their rows if we die now. Only then are they signalled, and the zombie is reaped last.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{
    childless, context, exit_statuses, foreign_claims, keeper_departure,
    outcome::suspects_of,
    release,
    run::{Exemptions, Seen, TreeTarget, strays},
    spared::{exemptions_of, settle_spared},
    strays,
};
use crate::{
    error::Result,
    identity::Identity,
    model::{
        End, EndReason, ExitStatus, LeakKind, Millis, Origin, ProcessId, RootEnd, Settled, Verdict,
        task_text,
    },
    store::RecordedDescendants,
    tracker::{
        core::Core,
        runtime::{
            pending_writes::Waiting,
            tracked::{Dead, REAPED_BY_PARENT, Tracked},
        },
    },
};

/// A dead root whose status is known.
#[derive(Clone, Copy)]
struct DeadRoot<'a> {
    dead: &'a Dead,
    status: ExitStatus,
}

impl<'a> DeadRoot<'a> {
    fn entry(self) -> &'a Arc<Tracked> {
        &self.dead.0
    }

    fn row(self) -> ProcessId {
        self.dead.0.root.row
    }

    fn reap_and_untrack(self, core: &Core) {
        release::reap_and_untrack(core, self.entry(), Some(&self.dead.1));
    }
}

/// A dead root, with the rows that record its end, and its strays.
struct Exited<'a> {
    root: DeadRoot<'a>,
    end: RootEnd,
    /// Its tree, with its strays.
    tree: TreeTarget,
}

/// The processes that dead roots left, according to a scan.
struct Found<'a> {
    exited: Vec<Exited<'a>>,
    /// Roots whose task cgroups contain live processes that cannot be seen.
    hiding: Vec<Arc<Tracked>>,
}

/// The strays that were recorded, by the rows of their roots; roots that another instance has
/// settled are missing.
type Recorded = HashMap<ProcessId, Vec<(ProcessId, Identity)>>;

/// Dead roots that could not be settled.
pub(in crate::tracker) struct Unsettled {
    /// Their statuses are not available yet.
    pub(in crate::tracker) waiting: Vec<Waiting>,
    /// Their task cgroups contain live processes that cannot be seen.
    pub(in crate::tracker) hiding: Vec<Arc<Tracked>>,
}

/// Settles processes whose statuses are known, or have been waited for long enough; returns the
/// others.
pub(in crate::tracker) fn settle_known(core: &Arc<Core>, mine: Vec<Waiting>) -> Unsettled {
    let deadline = Instant::now() + REAPED_BY_PARENT;
    let (mut known, mut waiting) = (Vec::new(), Vec::new());
    for (dead, since) in mine {
        match exit_statuses::status_or_patience(core, &dead, since, deadline) {
            Some(status) => known.push((dead, status)),
            None => waiting.push((dead, since)),
        }
    }
    let known = known.iter().map(|(dead, status)| DeadRoot { dead, status: *status }).collect();
    let others = settle_childless(core, known);
    let hiding = if others.is_empty() { Vec::new() } else { settle_by_scan(core, &others) };
    Unsettled { waiting, hiding }
}

/// Settles any kind of root, by scanning every process; returns those whose task cgroups contain
/// live processes that cannot be seen.
fn settle_by_scan(core: &Arc<Core>, roots: &[DeadRoot<'_>]) -> Vec<Arc<Tracked>> {
    let Found { exited, hiding } = match find_strays(core, roots) {
        Ok(found) => found,
        Err(error) => {
            // Ending the row now would hide the processes that the root left, so the health pass
            // scans again.
            tracing::error!(
                "failed to scan for processes that {} ended processes left: {error}",
                roots.len()
            );
            for root in roots {
                if root.entry().is_recorded() {
                    // Its claimant died while ending it; the next check of claims retries.
                    core.pending.claimed.push(root.dead.clone());
                } else {
                    root.entry().give_up();
                }
            }
            return Vec::new();
        }
    };
    match core.store.settle_roots(core.instance.id, exited.iter().map(|exited| &exited.end)) {
        Ok(recorded) => {
            for Exited { root, end, .. } in &exited {
                let is_settled = recorded.contains_key(&root.row());
                let end = Some(&end.end).filter(|_| is_settled);
                mark_ended(core, root.entry(), root.status, end);
            }
            core.export.notify();
            end_or_keep(core, exited, &recorded);
        }
        Err(error) => {
            // The strays are ended regardless; the record waits in memory until the ledger can be
            // written (invariant 10).
            tracing::error!(
                "failed to record the end of {} processes: {error}; will be retried",
                exited.len()
            );
            core.pending.roots.extend(exited.iter().map(|exited| exited.end.clone()));
            let unrecorded = exited.iter().map(|exited| (exited.root.row(), Vec::new())).collect();
            end_strays(core, exited, &unrecorded);
        }
    }
    hiding
}

/// Ends the strays of roots whose rows have ended. Roots that another instance is ending are held
/// back until that is done.
fn end_or_keep(core: &Arc<Core>, mut exited: Vec<Exited<'_>>, recorded: &Recorded) {
    let others = exited.iter().map(|exited| exited.root);
    let others = others.filter(|root| !recorded.contains_key(&root.row()));
    let others: Vec<&Dead> = others.map(|root| root.dead).collect();
    let kept = foreign_claims::keep_claimed(core, &others);
    exited.retain(|exited| !kept.contains(&exited.root.row()));
    end_strays(core, exited, recorded);
}

/// Marks that the end of a root, or at least its status, is in the ledger; `end` if this instance
/// recorded it.
fn mark_ended(core: &Core, entry: &Tracked, status: ExitStatus, end: Option<&End>) {
    log_end(entry, status);
    if end.is_some_and(|end| end.reason == EndReason::Exited) {
        entry.mark_recorded_by_itself();
    } else {
        entry.mark_recorded();
    }
    if let Some(since) = entry.died_since.get() {
        core.counters().detected(since.elapsed());
    }
}

/// Finds and pins the processes that each dead root left, and prepares the rows that record them.
fn find_strays<'a>(core: &Core, roots: &[DeadRoot<'a>]) -> Result<Found<'a>> {
    let targets: Vec<ProcessId> = roots.iter().map(|root| root.row()).collect();
    let mut descendants = core.store.descendants(&targets)?;
    let tree = |root: &DeadRoot<'_>| {
        let RecordedDescendants { live, spared } =
            descendants.remove(&root.row()).unwrap_or_default();
        let (entry, pidfd) = root.dead;
        TreeTarget {
            // A job may keep its strays if its root ends by itself.
            exemptions: Exemptions { all: entry.strays.keep, ..exemptions_of(entry, spared) },
            recorded: strays::some_rows(live),
            ..strays::tree_of(entry, Some(pidfd))
        }
    };
    let trees: Vec<TreeTarget> = roots.iter().map(tree).collect();
    let left = strays(&context::context(core, &targets)?, &trees)?;
    let mut found = Found { exited: Vec::with_capacity(roots.len()), hiding: Vec::new() };
    for ((root, tree), left) in roots.iter().zip(trees).zip(left) {
        for suspect in suspects_of(&core.store, tree.root.task.as_ref(), left.suspects) {
            tracing::warn!(
                "process {} may have been left by task {}, and is left running: {}",
                suspect.pid,
                task_text(tree.root.task.as_ref()),
                suspect.why
            );
        }
        if left.hides && !tree.exemptions.all {
            found.hiding.push(Arc::clone(root.entry()));
        } else {
            found.exited.push(exited(core, *root, tree, left.members));
        }
    }
    Ok(found)
}

/// Prepares the rows of one root and of the processes that it left.
fn exited<'a>(
    core: &Core,
    root: DeadRoot<'a>,
    mut tree: TreeTarget,
    members: Vec<Seen>,
) -> Exited<'a> {
    let strays: Vec<Seen> = members.into_iter().filter(|member| !member.is_root).collect();
    let kept = remove_spared(core, &mut tree, &strays);
    let end = RootEnd {
        process: root.row(),
        end: own_end(core, root.entry(), root.status),
        kept,
        strays: new_strays(&strays)
            .map(|stray| stray.info.new_row(core.instance.id, &tree.root))
            .collect(),
    };
    // Their rows are not written yet.
    tree.recorded.extend(new_strays(&strays).map(|stray| (None, stray.info.identity)));
    Exited { root, end, tree }
}

/// Returns the end of a root, by itself or by the kernel for lack of memory, unless we ended it and
/// could not record that.
fn own_end(core: &Core, entry: &Tracked, status: ExitStatus) -> End {
    let by_the_kernel =
        || Some((EndReason::Oom, Some(core.cgroups.oom_because(&entry.root, status)?)));
    let (reason, because) =
        entry.cause().or_else(by_the_kernel).unwrap_or((EndReason::Exited, None));
    let core_dumped = entry.has_dumped_core();
    End { reason, status, core_dumped, at: Millis::now().into(), because }
}

/// Removes from the tree the processes that are left running on purpose and, if all are left, those
/// that have already exited.
fn remove_spared(core: &Core, tree: &mut TreeTarget, strays: &[Seen]) -> Vec<Settled> {
    let mut apart = Vec::new();
    for stray in strays {
        match (&stray.spared, stray.row) {
            (Some(why), _) if stray.alive => {
                tree.exemptions.before.push(stray.info.identity);
                let found = (stray.row, &stray.info);
                apart.push(settle_spared(
                    core.instance.id,
                    &tree.root,
                    LeakKind::Stray,
                    found,
                    why,
                ));
            }
            (_, Some(row)) if tree.exemptions.all && !stray.alive => apart.push(gone(row)),
            _ => continue,
        }
        tree.recorded.retain(|(row, _)| row.is_none() || *row != stray.row);
    }
    apart
}

/// Ends the strays, if there are any on a separate thread, so that the handling of the next death
/// does not wait for their grace.
fn end_strays(core: &Arc<Core>, exited: Vec<Exited<'_>>, recorded: &Recorded) {
    let mut with_strays = Vec::new();
    for Exited { root, mut tree, .. } in exited {
        // `None` if another instance has ended the tree, or it was released; then the rest is not
        // ours to end.
        let rows = recorded.get(&root.row());
        let left = rows.is_some_and(|rows| take_recorded(core, root.entry(), &mut tree, rows));
        if left {
            with_strays.push((Arc::clone(root.entry()), tree));
        } else {
            if rows.is_none() && keeper_departure::is_released(core, root.row()) {
                release::release(core, root.row());
            }
            root.reap_and_untrack(core);
        }
    }
    if with_strays.is_empty() {
        return;
    }
    let theirs = Arc::clone(core);
    let work = move || end_stray_trees(&theirs, with_strays);
    if core.passes.is_monitoring() {
        core.threads.run("procledger-strays", work);
    } else {
        work();
    }
}

/// Gives the strays their row ids, and claims descendants that earlier passes recorded; returns
/// whether there are any.
fn take_recorded(
    core: &Core,
    entry: &Tracked,
    tree: &mut TreeTarget,
    rows: &[(ProcessId, Identity)],
) -> bool {
    let (new, kept): (Vec<_>, Vec<_>) = tree.recorded.drain(..).partition(|(row, _)| row.is_none());
    let earlier: Vec<ProcessId> = kept.iter().filter_map(|(row, _)| *row).collect();
    if entry.strays.keep {
        // Only processes that could not be identified are left in the list.
        release_all(core, &earlier);
        return false;
    }
    let row = |identity| rows.iter().find(|(_, it)| *it == identity).map(|(row, _)| *row);
    tree.recorded.extend(new.into_iter().map(|(_, identity)| (row(identity), identity)));
    match core.store.claim(&earlier, core.instance.id, Some(core.instance.id), None) {
        Ok(claimed) => {
            tree.recorded
                .extend(claimed.iter().map(|record| (Some(record.id), record.spec.identity)));
        }
        Err(error) => {
            tracing::error!("failed to claim recorded descendants: {error}; ending them anyway");
            tree.recorded.extend(kept);
        }
    }
    !tree.recorded.is_empty()
}

/// Releases processes that a task may leave behind: no instance is responsible for them any more.
fn release_all(core: &Core, rows: &[ProcessId]) {
    for &row in rows {
        if let Err(error) = core.store.release(row, core.instance.id, Millis::now()) {
            tracing::error!("failed to release a process that a task left: {error}");
        }
    }
}

fn end_stray_trees(core: &Core, trees: Vec<(Arc<Tracked>, TreeTarget)>) {
    let (entries, trees): (Vec<_>, Vec<_>) = trees.into_iter().unzip();
    strays::end_strays_of(core, trees);
    for entry in entries {
        release::reap_and_untrack(core, &entry, None);
    }
}

/// Strays that are to be ended and have no row yet.
fn new_strays(strays: &[Seen]) -> impl Iterator<Item = &Seen> {
    strays.iter().filter(|stray| stray.alive && stray.spared.is_none() && stray.row.is_none())
}

/// Returns the end of a recorded descendant that exited unobserved.
fn gone(row: ProcessId) -> Settled {
    Settled::new(row, Verdict::Ended(End::unobserved(EndReason::Gone, Millis::now())))
}

/// Logs the end of a root: with the line of the former implementation if we did not spawn it,
/// otherwise as a debug line.
fn log_end(entry: &Tracked, status: ExitStatus) {
    let pid = entry.root.identity.pid;
    let task = task_text(entry.root.task.as_ref());
    if entry.root.origin == Origin::Spawned {
        tracing::debug!("process {pid} for task {task} has ended: {status}");
    } else {
        log_dead(pid, &task);
    }
}

/// Logs the wording of the former implementation.
pub(in crate::tracker) fn log_dead(pid: crate::identity::Pid, task: &str) {
    tracing::info!("Process {pid} for task {task} is no longer alive - removing from registry");
}

/// Records the ends of roots that certainly left no descendant; returns the others.
fn settle_childless<'a>(core: &Arc<Core>, roots: Vec<DeadRoot<'a>>) -> Vec<DeadRoot<'a>> {
    let (alone, mut others): (Vec<_>, Vec<_>) =
        roots.into_iter().partition(|root| childless::is_childless(core, root.entry()));
    if alone.is_empty() {
        return others;
    }
    let end_alone = |root: DeadRoot<'a>| RootEnd {
        process: root.row(),
        end: own_end(core, root.entry(), root.status),
        kept: Vec::new(),
        strays: Vec::new(),
    };
    let ended: Vec<(DeadRoot<'a>, RootEnd)> =
        alone.into_iter().map(|root| (root, end_alone(root))).collect();
    // Roots that cannot be written get the full scan; if they still cannot be written then, their
    // ends wait in memory.
    let settled = core.store.settle_alone(core.instance.id, ended.iter().map(|(_, end)| end)).ok();
    for (root, end) in &ended {
        if settled.as_ref().is_some_and(|settled| settled.contains(&root.row())) {
            mark_ended(core, root.entry(), root.status, Some(&end.end));
            root.reap_and_untrack(core);
        } else {
            // Or another thread is ending its tree and needs the zombie, which pins the PID that
            // names the session.
            others.push(*root);
        }
    }
    if settled.is_some() {
        core.export.notify();
    }
    others
}
