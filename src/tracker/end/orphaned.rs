//! Ends tasks of a live host whose caller has ended.

use std::{collections::HashSet, sync::Arc};

use super::{settle, terminate};
use crate::{
    error::{Error, Kind, Result},
    identity::Identity,
    model::{EndPlan, EndReason, InstanceId, LeakKind, Report, Rule, TaskId},
    sys::{Pinned, Probe, lock_note::NotedCaller},
    tracker::{
        core::Core,
        runtime::{cause::Cause, liveness::noted_caller},
    },
};

/// Returns the rule by which a task is an orphan; see
/// [`Tracker::orphaned`](crate::Tracker::orphaned).
pub(in crate::tracker) fn orphaned(core: &Core, task_id: &str) -> Result<Option<Rule>> {
    let rows = core.store.live_of_task(&TaskId::new(task_id)?)?;
    let owners: HashSet<InstanceId> = rows.iter().map(|row| row.owner).collect();
    for owner in owners {
        if let Some(rule) = ended_caller(core, owner)? {
            return Ok(Some(rule));
        }
    }
    Ok(None)
}

/// Ends a task whose caller has ended; see [`Tracker::end_orphaned`](crate::Tracker::end_orphaned).
pub(in crate::tracker) fn end_orphaned(core: &Arc<Core>, task_id: &str) -> Result<Report> {
    let task = TaskId::new(task_id)?;
    let orphan = |rule| Cause { reason: EndReason::Orphan, leak: Some(LeakKind::Orphan), rule };
    if let Some(rule) = ended_caller(core, core.instance.id)? {
        let entries = terminate::own_entries_of(core, &task)?;
        if !entries.is_empty() {
            return Ok(settle::end_entries(core, &orphan(rule), &entries, &EndPlan::new()));
        }
    }
    let rule = orphaned(core, task_id)?.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!("task {:?} is not running, or its caller has not ended", task.as_str()),
        )
    })?;
    let rows = core.store.live_of_task(&task)?;
    terminate::kill_rows(core, &rows, &orphan(rule), None, &EndPlan::new())
}

/// Returns the rule by which the tasks of an instance are orphans although it is alive.
fn ended_caller(core: &Core, instance: InstanceId) -> Result<Option<Rule>> {
    let rule = |caller: &NotedCaller| Rule::CallerEnded(caller.to_string());
    if instance == core.instance.id {
        let Some(caller) = &core.options.caller else { return Ok(None) };
        return Ok(caller.has_ended()?.then(|| rule(&caller.note())));
    }
    let Some(instance) = core.store.instance(instance)? else { return Ok(None) };
    let Some(caller) = noted_caller(&core.store, &instance) else { return Ok(None) };
    let NotedCaller { pid, start_tick, pidfd_inode, .. } = caller;
    let identity = Identity { scope: instance.identity.scope, pid, start_tick, pidfd_inode };
    let ended = match Pinned::probe(&core.proc, core.pid_scope(), &identity) {
        Probe::Zombie(_) | Probe::Gone => true,
        Probe::Alive(_) | Probe::Unknown(_) => false,
    };
    Ok(ended.then(|| rule(&caller)))
}
