//! Tasks of a living host whose caller has ended.

use std::collections::HashSet;

use super::{outcome::Cause, terminate::kill_rows};
use crate::{
    error::{Error, Kind, Result},
    identity::Identity,
    model::{EndReason, InstanceId, LeakKind, Report, TaskId},
    sys::{Pinned, Probe, lock_note::NotedCaller},
    tracker::{KillOptions, Tracker, core::Core, runtime::liveness::noted_caller},
};

impl Tracker {
    /// Returns the rule by which a running task is an orphan, if it is one: the [caller](crate::Builder::caller) of the host that owns
    /// it has ended.
    ///
    /// # Errors
    ///
    /// Invalid input for a bad task id; if the ledger cannot be read.
    pub fn orphaned(&self, task_id: &str) -> Result<Option<String>> {
        let core = &self.inner.core;
        let rows = core.store.live_of_task(&TaskId::new(task_id)?)?;
        let owners: HashSet<InstanceId> = rows.iter().map(|row| row.owner).collect();
        for owner in owners {
            if let Some(rule) = core.ended_caller(owner)? {
                return Ok(Some(rule));
            }
        }
        Ok(None)
    }

    /// Ends a task whose [caller](crate::Builder::caller) has ended: the whole tree, as [`terminate`](Self::terminate) does, and
    /// records its processes as orphans.
    ///
    /// A task of another instance is taken over, even if that one has begun to end it: call this only where that instance does
    /// not do so by itself, for example because it is stopped.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) if there is no such task, or the caller of its host has not ended.
    pub fn end_orphaned(&self, task_id: &str) -> Result<Report> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let task = TaskId::new(task_id)?;
        let orphan = |rule| Cause { reason: EndReason::Orphan, leak: Some(LeakKind::Orphan), rule };
        if let Some(rule) = core.ended_caller(core.instance.id)? {
            let entries = core.own_entries_of(&task)?;
            if !entries.is_empty() {
                return Ok(core.end_entries(&orphan(rule), &entries));
            }
        }
        let rule = self.orphaned(task_id)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("task {:?} has no dead caller", task.as_str()))
        })?;
        kill_rows(
            core,
            &core.store.live_of_task(&task)?,
            &orphan(rule),
            None,
            KillOptions::default(),
        )
    }
}

impl Core {
    /// Returns the rule by which the tasks of an instance are orphans although it is alive.
    fn ended_caller(&self, instance: InstanceId) -> Result<Option<String>> {
        let rule = |caller: &NotedCaller| format!("its caller {caller} has ended");
        if instance == self.instance.id {
            let Some(caller) = &self.options.caller else { return Ok(None) };
            return Ok(caller.has_ended()?.then(|| rule(&caller.note())));
        }
        let Some(instance) = self.store.instance(instance)? else { return Ok(None) };
        let Some(caller) = noted_caller(&self.store, &instance) else { return Ok(None) };
        let NotedCaller { pid, start_tick, pidfd_inode, .. } = caller;
        let identity = Identity { place: instance.identity.place, pid, start_tick, pidfd_inode };
        let ended = match Pinned::probe(&self.proc, self.instance.place(), &identity) {
            Probe::Zombie(_) | Probe::Gone => true,
            Probe::Alive(_) | Probe::Unknown(_) => false,
        };
        Ok(ended.then(|| rule(&caller)))
    }
}
