//! Handles roots that ended by themselves: records the end, and ends what the root left.
//!
//! The order makes a crash harmless. The root's status is read while it stays a zombie, which pins the PID that names its
//! session. A snapshot shows what it left. One transaction ends the root's row and records the strays, claimed by us: if we die
//! now, the next pass finds their rows. Only then are they signalled, and the zombie is reaped last.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{
    childless, claims, context, exit_statuses, keeper_departure,
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

/// The strays of dead roots.
struct Found<'a> {
    mine: Vec<&'a Dead>,
    statuses: Vec<ExitStatus>,
    /// The tree of each, with its strays.
    trees: Vec<TreeTarget>,
    ends: Vec<RootEnd>,
    /// Roots in whose task cgroups something lives that cannot be seen.
    hiding: Vec<Arc<Tracked>>,
}

/// The strays that were recorded, by the rows of their roots; roots that another instance has settled are missing.
type Recorded = HashMap<ProcessId, Vec<(ProcessId, Identity)>>;

/// Dead roots that could not be settled.
pub(in crate::tracker) struct Unsettled {
    /// Their statuses are not available yet.
    pub(in crate::tracker) waiting: Vec<Waiting>,
    /// Something that cannot be seen lives in their task cgroups.
    pub(in crate::tracker) hiding: Vec<Arc<Tracked>>,
}

/// Settles processes whose statuses are known, or were waited for long enough; returns the others.
pub(in crate::tracker) fn settle_known(core: &Arc<Core>, mine: Vec<Waiting>) -> Unsettled {
    let deadline = Instant::now() + REAPED_BY_PARENT;
    let (mut known, mut statuses, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for (dead, since) in mine {
        match exit_statuses::status_or_patience(core, &dead, since, deadline) {
            Some(status) => {
                known.push(dead);
                statuses.push(status);
            }
            None => waiting.push((dead, since)),
        }
    }
    let (mine, statuses) = settle_childless(core, known.iter().collect(), statuses);
    let hiding = if mine.is_empty() { Vec::new() } else { settle_by_scan(core, &mine, &statuses) };
    Unsettled { waiting, hiding }
}

/// Settles any kind of root, by scanning every process; returns those in whose task cgroups something lives that cannot be seen.
fn settle_by_scan(core: &Arc<Core>, mine: &[&Dead], statuses: &[ExitStatus]) -> Vec<Arc<Tracked>> {
    let Found { mine, statuses, trees, ends, hiding } = match find_strays(core, mine, statuses) {
        Ok(found) => found,
        Err(error) => {
            // Ending the row now would hide what its root has left: the health pass scans again.
            tracing::error!("failed to scan for what {} ended processes left: {error}", mine.len());
            for dead in mine {
                if dead.0.is_recorded() {
                    // Its claimant died while ending it: the next check of claims retries.
                    core.pending.claimed.push((*dead).clone());
                } else {
                    dead.0.give_up();
                }
            }
            return Vec::new();
        }
    };
    match core.store.settle_roots(core.instance.id, &ends) {
        Ok(recorded) => {
            for (((entry, _), status), end) in mine.iter().zip(statuses).zip(&ends) {
                let is_settled = recorded.contains_key(&entry.root.row);
                mark_ended(core, entry, status, Some(&end.end).filter(|_| is_settled));
            }
            core.export.notify();
            end_or_keep(core, &mine, trees, &recorded);
        }
        Err(error) => {
            // They are ended regardless; the record waits in memory until the ledger can be written (invariant 10).
            tracing::error!(
                "failed to record the end of {} processes: {error}; will be retried",
                ends.len()
            );
            core.pending.roots.extend(ends);
            let unrecorded = mine.iter().map(|(entry, _)| (entry.root.row, Vec::new())).collect();
            end_strays(core, &mine, trees, &unrecorded);
        }
    }
    hiding
}

/// Ends the strays of roots whose rows have ended. Roots that another instance is ending are held back until that is done.
fn end_or_keep(core: &Arc<Core>, mine: &[&Dead], trees: Vec<TreeTarget>, recorded: &Recorded) {
    let is_settled = |dead: &Dead| recorded.contains_key(&dead.0.root.row);
    let others: Vec<&Dead> = mine.iter().filter(|dead| !is_settled(dead)).copied().collect();
    let kept = claims::keep_claimed(core, &others);
    let (mut settled, mut settled_trees) = (Vec::new(), Vec::new());
    for (dead, tree) in mine.iter().zip(trees) {
        if !kept.contains(&dead.0.root.row) {
            settled.push(*dead);
            settled_trees.push(tree);
        }
    }
    end_strays(core, &settled, settled_trees, recorded);
}

/// Marks that its end, or at least its status, is in the ledger; `end` where it was this instance that has recorded it.
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

/// Finds and pins what each dead root left, and prepares the rows that record it.
fn find_strays<'a>(core: &Core, dead: &[&'a Dead], statuses: &[ExitStatus]) -> Result<Found<'a>> {
    let targets: Vec<ProcessId> = dead.iter().map(|(entry, _)| entry.root.row).collect();
    let mut descendants = core.store.descendants(&targets)?;
    let tree = |(entry, pidfd): &&Dead| {
        let RecordedDescendants { live, spared } =
            descendants.remove(&entry.root.row).unwrap_or_default();
        TreeTarget {
            // A job may ask to keep its strays where its root ends by itself.
            exemptions: Exemptions { all: entry.strays.keep, ..exemptions_of(entry, spared) },
            recorded: strays::some_rows(live),
            ..strays::tree_of(entry, Some(pidfd))
        }
    };
    let trees: Vec<TreeTarget> = dead.iter().map(tree).collect();
    let left = strays(&context::context(core, &targets)?, &trees)?;
    let (mut mine, mut known) = (Vec::new(), Vec::new());
    let (mut seen, mut found, mut hiding) = (Vec::new(), Vec::new(), Vec::new());
    for (((dead, status), tree), left) in dead.iter().zip(statuses).zip(trees).zip(left) {
        for suspect in suspects_of(&core.store, tree.root.task.as_ref(), left.suspects) {
            tracing::warn!(
                "process {} may have been left by task {}, and is left running: {}",
                suspect.pid,
                task_text(tree.root.task.as_ref()),
                suspect.why
            );
        }
        if left.hides && !tree.exemptions.all {
            hiding.push(Arc::clone(&dead.0));
            continue;
        }
        mine.push(*dead);
        known.push(*status);
        seen.push(tree);
        let strays = left.members.into_iter().filter(|member| !member.is_root);
        found.push(strays.collect::<Vec<_>>());
    }
    let mut trees = seen;
    let ends = (mine.iter().zip(&known)).zip(trees.iter_mut().zip(&found));
    let ends = ends.map(|(((entry, _), status), (tree, strays))| RootEnd {
        process: tree.root.row,
        end: own_end(core, entry, *status),
        kept: set_apart(core, tree, strays),
        strays: new_strays(strays)
            .map(|stray| stray.info.new_row(core.instance.id, &tree.root))
            .collect(),
    });
    let ends = ends.collect();
    for (tree, strays) in trees.iter_mut().zip(&found) {
        // Their rows are not written yet.
        tree.recorded.extend(new_strays(strays).map(|stray| (None, stray.info.identity)));
    }
    Ok(Found { mine, statuses: known, trees, ends, hiding })
}

/// Returns the end of a root: by itself, or by the kernel for lack of memory, unless it was ended by us and that could not
/// be recorded.
fn own_end(core: &Core, entry: &Tracked, status: ExitStatus) -> End {
    let by_the_kernel =
        || Some((EndReason::Oom, Some(core.cgroups.oom_because(&entry.root, status)?)));
    let (reason, because) =
        entry.cause().or_else(by_the_kernel).unwrap_or((EndReason::Exited, None));
    End { reason, status, at: Millis::now().into(), because }
}

/// Removes from the tree what is left running on purpose; and, where everything is left, what has already exited.
fn set_apart(core: &Core, tree: &mut TreeTarget, strays: &[Seen]) -> Vec<Settled> {
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

/// Ends the strays, on a separate thread if there are any: the handling of the next death must not wait for their grace.
fn end_strays(core: &Arc<Core>, dead: &[&Dead], trees: Vec<TreeTarget>, recorded: &Recorded) {
    let mut with_strays = Vec::new();
    for ((entry, pidfd), mut tree) in dead.iter().zip(trees) {
        // `None`: another instance has ended the tree, or it was released; what is left is not ours to end.
        let rows = recorded.get(&entry.root.row);
        let left = rows.is_some_and(|rows| take_recorded(core, entry, &mut tree, rows));
        if left {
            with_strays.push((Arc::clone(entry), tree));
        } else {
            if rows.is_none() && keeper_departure::is_released(core, entry.root.row) {
                release::release(core, entry.root.row);
            }
            release::reap_and_untrack(core, entry, Some(pidfd));
        }
    }
    if with_strays.is_empty() {
        return;
    }
    let theirs = Arc::clone(core);
    let work = move || end_stray_trees(&theirs, with_strays);
    if core.scheduler.is_monitoring() {
        core.threads.run("procledger-strays", work);
    } else {
        work();
    }
}

/// Gives the strays their row IDs and claims descendants that earlier passes recorded; returns whether there are any.
fn take_recorded(
    core: &Core,
    entry: &Tracked,
    tree: &mut TreeTarget,
    rows: &[(ProcessId, Identity)],
) -> bool {
    let (new, kept): (Vec<_>, Vec<_>) = tree.recorded.drain(..).partition(|(row, _)| row.is_none());
    let earlier: Vec<ProcessId> = kept.iter().filter_map(|(row, _)| *row).collect();
    if entry.strays.keep {
        // Only those that could not be identified are left in the list.
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

/// Releases what a task is allowed to leave behind: no instance is responsible for it any more.
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
    let end = End {
        reason: EndReason::Gone,
        status: ExitStatus::Unobserved,
        at: Millis::now().into(),
        because: None,
    };
    Settled::new(row, Verdict::Ended(end))
}

/// Logs the line of the former implementation for a process whose end was not expected; for a program that we spawned, an end
/// is not worth more than a debug line.
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
fn settle_childless<'a>(
    core: &Arc<Core>,
    mine: Vec<&'a Dead>,
    statuses: Vec<ExitStatus>,
) -> (Vec<&'a Dead>, Vec<ExitStatus>) {
    let all = mine.into_iter().zip(statuses);
    let (alone, mut others): (Vec<_>, Vec<_>) =
        all.partition(|((entry, _), _)| childless::is_childless(core, entry));
    if !alone.is_empty() {
        let ends: Vec<RootEnd> = (alone.iter())
            .map(|((entry, _), status)| RootEnd {
                process: entry.root.row,
                end: own_end(core, entry, *status),
                kept: Vec::new(),
                strays: Vec::new(),
            })
            .collect();
        match core.store.settle_alone(core.instance.id, &ends) {
            Ok(settled) => {
                for ((dead, status), end) in alone.into_iter().zip(&ends) {
                    if settled.contains(&dead.0.root.row) {
                        mark_ended(core, &dead.0, status, Some(&end.end));
                        release::reap_and_untrack(core, &dead.0, Some(&dead.1));
                    } else {
                        // Another thread is ending its tree and needs it: its zombie pins the PID that names the session.
                        others.push((dead, status));
                    }
                }
                core.export.notify();
            }
            // These get the full scan; what still cannot be written then is held in memory.
            Err(_) => others.extend(alone),
        }
    }
    others.into_iter().unzip()
}
