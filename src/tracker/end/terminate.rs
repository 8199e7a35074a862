//! Ends trees at the request of their owner or of a person.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    claimed_trees, foreign_claims,
    outcome::{self, Conclusion},
    release, settle,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        EndPlan, EndReason, Evidence, InstanceId, Justification, ProcessId, ProcessRecord, Report,
        Rule, Settled, State, TaskId, Verdict,
    },
    store::TakeOver,
    tracker::{
        core::Core,
        runtime::{cause::Cause, tracked::Tracked},
    },
};

/// Ends the whole tree of a task of this instance; see
/// [`Tracker::terminate_with`](crate::Tracker::terminate_with).
pub(in crate::tracker) fn terminate(
    core: &Arc<Core>,
    task_id: &str,
    plan: &EndPlan,
) -> Result<Report> {
    let task = TaskId::new(task_id)?;
    let entries = own_entries_of(core, &task)?;
    if entries.is_empty() {
        return Err(not_found(&task, "this instance runs no task"));
    }
    settle::terminate_entries(core, &entries, plan)
}

/// Ends tasks of any instance; see [`Tracker::kill_with`](crate::Tracker::kill_with).
pub(in crate::tracker) fn kill(
    core: &Arc<Core>,
    task_ids: &[&str],
    asked_by: &str,
    plan: &EndPlan,
) -> Result<Report> {
    let mut rows = Vec::new();
    for id in task_ids {
        let task = TaskId::new(*id)?;
        let live = core.store.live_of_task(&task)?;
        if live.is_empty() {
            return Err(not_found(&task, "the ledger has no live task"));
        }
        rows.extend(live);
    }
    kill_rows(core, &rows, &asked(asked_by), Some(asked_by), plan)
}

/// Ends a task of any instance, unless a live instance is ending it; see
/// [`Tracker::kill_unless_ending`](crate::Tracker::kill_unless_ending).
pub(in crate::tracker) fn kill_unless_ending(
    core: &Arc<Core>,
    task_id: &str,
    asked_by: &str,
) -> Result<Report> {
    let task = TaskId::new(task_id)?;
    let rows = core.store.live_of_task(&task)?;
    if rows.is_empty() {
        return Err(not_found(&task, "the ledger has no live task"));
    }
    let (cause, plan) = (asked(asked_by), EndPlan::new());
    kill_rows_unless(core, &rows, &cause, Some(asked_by), &plan, OtherClaims::StayIfLive)
}

/// Ends every live task; see [`Tracker::kill_all_with`](crate::Tracker::kill_all_with).
pub(in crate::tracker) fn kill_all(
    core: &Arc<Core>,
    asked_by: &str,
    plan: &EndPlan,
) -> Result<Report> {
    let rows = core.store.live()?;
    kill_rows(core, &rows, &asked(asked_by), Some(asked_by), plan)
}

fn not_found(task: &TaskId, what: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{what} {:?}: `procledger ps` lists running tasks", task.as_str()),
    )
}

fn asked(asked_by: &str) -> Cause {
    Cause { reason: EndReason::Killed, leak: None, rule: Rule::PersonAsked(asked_by.to_owned()) }
}

/// What happens to the claims of other instances on the rows that are to be ended. Claims of dead
/// instances are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherClaims {
    TakenOver,
    StayIfLive,
}

/// Ends live rows of any instance, even if another instance is ending them.
pub(in crate::tracker) fn kill_rows(
    core: &Core,
    rows: &[ProcessRecord],
    cause: &Cause,
    asked_by: Option<&str>,
    plan: &EndPlan,
) -> Result<Report> {
    kill_rows_unless(core, rows, cause, asked_by, plan, OtherClaims::TakenOver)
}

fn kill_rows_unless(
    core: &Core,
    rows: &[ProcessRecord],
    cause: &Cause,
    asked_by: Option<&str>,
    plan: &EndPlan,
    others: OtherClaims,
) -> Result<Report> {
    plan.check()?;
    let _pass = core.passes.begin_pass();
    let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
    let dead = foreign_claims::dead_claimants_of(core, rows);
    let over = TakeOver { dead: &dead, live: others == OtherClaims::TakenOver };
    let claimed = core.store.claim_over(&ids, core.instance.id, None, asked_by, over)?;
    let earlier = Earlier::of(rows, &claimed, &dead);
    let claimed = with_plan(claimed, &dead, plan);
    let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
    let owners = claimed.iter().map(|record| (record.id, record.owner)).collect();
    let Conclusion { mut settled, mut report, .. } = claimed_trees::end_claimed_unless(
        core,
        &|_| cause.clone(),
        claimed,
        Some(&core.kills_interrupted),
    );
    foreign_claims::await_noted(core, &owners, &settled);
    explain_gone(core, &earlier, cause, &mut settled);
    report.add_error(outcome::write(core, None, settled));
    release::release_ended(core, &rows);
    Ok(report)
}

/// What earlier calls did to the rows of a call.
struct Earlier {
    /// Rows that another call was ending, or whose end a person has requested.
    ended: HashMap<ProcessId, Evidence>,
    /// Rows that no call has tried to end.
    untried: HashSet<ProcessId>,
}

impl Earlier {
    fn of(
        rows: &[ProcessRecord],
        claimed: &[(ProcessRecord, Option<InstanceId>)],
        dead: &[InstanceId],
    ) -> Self {
        let before: HashMap<ProcessId, &ProcessRecord> =
            rows.iter().map(|row| (row.id, row)).collect();
        let (mut ended, mut untried) = (HashMap::new(), HashSet::new());
        for (row, former) in claimed {
            // A claimant that died may have done so before its first signal.
            let former_lives = former.is_none_or(|former| !dead.contains(&former));
            let was_asked = before.get(&row.id).is_some_and(|row| row.requested_by.is_some());
            let has_survived =
                before.get(&row.id).is_some_and(|row| row.life.state() == State::Survived);
            if former_lives && (former.is_some() || was_asked) {
                let is_root = row.spec.root.is_none();
                ended.insert(row.id, if is_root { Evidence::Root } else { Evidence::Recorded });
            } else if former.is_none() && !has_survived {
                untried.insert(row.id);
            }
        }
        Self { ended, untried }
    }
}

/// Sets the reason of processes that were gone before this call could signal them. A process that
/// another call was ending was ended by it, even if its owner records the status only later. One
/// that no call has tried to end exited by itself, if its owner has recorded the status. Of others,
/// such as one that had survived an attempt, it is not known.
fn explain_gone(core: &Core, earlier: &Earlier, cause: &Cause, settled: &mut [Settled]) {
    for Settled { row, verdict, .. } in settled {
        let (Some(row), Verdict::Ended(end)) = (row.id(), verdict) else { continue };
        if end.reason != EndReason::Gone {
            continue;
        }
        match earlier.ended.get(&row) {
            Some(evidence) if cause.reason == EndReason::Killed => {
                end.reason = EndReason::Killed;
                end.because = Some(Justification::new(&cause.rule, *evidence));
            }
            None if earlier.untried.contains(&row)
                && matches!(core.store.has_status(row), Ok(true)) =>
            {
                end.reason = EndReason::Exited;
            }
            _ => {}
        }
    }
}

/// Applies the plan, and removes the grace of trees that another live instance was ending: they
/// have had their time, and are killed at once.
fn with_plan(
    claimed: Vec<(ProcessRecord, Option<InstanceId>)>,
    dead: &[InstanceId],
    plan: &EndPlan,
) -> Vec<ProcessRecord> {
    let root = |record: &ProcessRecord| record.spec.root.unwrap_or(record.id);
    let hurried: HashSet<ProcessId> = (claimed.iter())
        .filter(|(_, former)| former.is_some_and(|former| !dead.contains(&former)))
        .map(|(record, _)| root(record))
        .collect();
    let planned = |(mut record, _): (ProcessRecord, _)| {
        let spec = &mut record.spec;
        plan.replace_in(&mut spec.end_plan, &mut spec.limits.grace);
        if hurried.contains(&root(&record)) {
            record.spec.limits.grace = Duration::ZERO;
        }
        record
    };
    claimed.into_iter().map(planned).collect()
}

/// Returns the roots of the task that this instance owns; empty if there are none.
pub(in crate::tracker) fn own_entries_of(core: &Core, task: &TaskId) -> Result<Vec<Arc<Tracked>>> {
    match core.store.live_of_task(task) {
        Ok(rows) => {
            // If the root has just ended by itself, the rows of its strays lead to it, and its end
            // is waited for.
            let roots = rows.iter().map(|row| row.spec.root.unwrap_or(row.id));
            let roots: HashSet<ProcessId> = roots.collect();
            Ok(roots.iter().filter_map(|row| core.registry.get(*row)).collect())
        }
        Err(error) => entries_of(core, task, error),
    }
}

/// Returns the roots of the task that this instance owns, for when the ledger cannot be read: our
/// own are ended regardless (invariant 10).
fn entries_of(core: &Core, task: &TaskId, error: Error) -> Result<Vec<Arc<Tracked>>> {
    let mut entries = core.registry.all();
    entries.retain(|entry| entry.root.task.as_ref() == Some(task));
    if entries.is_empty() {
        return Err(error);
    }
    tracing::error!("{error}; ending task {task} anyway");
    Ok(entries)
}
