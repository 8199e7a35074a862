//! Releases processes whose ends are recorded: from the registry, from their keepers and, as
//! zombies, from the process table.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{adopted_zombies, exit_statuses, keeper_departure, suspend};
use crate::{
    model::{ExitStatus, ProcessId, task_text},
    sys::PidFd,
    tracker::{
        core::Core,
        runtime::{
            pending_writes::Unfinished,
            tracked::{StatusReading, Tracked},
        },
    },
};

/// Limit on waiting for the parent of a process that is not our child, since the parent may never
/// reap it.
const UNREAPED_LIMIT: Duration = Duration::from_secs(10);

/// Releases a process whose end is recorded. Its keeper, if it has one, makes sure that no process
/// of the tree is left.
pub(in crate::tracker) fn untrack(core: &Core, row: ProcessId) {
    remove(core, row, false);
}

/// Releases a process for which no instance is responsible any more, with all its descendants.
pub(in crate::tracker) fn release(core: &Core, row: ProcessId) {
    remove(core, row, true);
}

fn remove(core: &Core, row: ProcessId, leave: bool) {
    if let Some(entry) = core.registry.get(row) {
        suspend::resume_if_suspended(core, &entry);
    }
    let Some(entry) = core.registry.untrack(row) else { return };
    // If the keeper has not reported yet how the program ended, see [`finish_late`].
    if entry.keeper.is_none() || !entry.lacks_status() || entry.status().is_some() {
        keeper_departure::part_with_keeper(core, &entry, leave || entry.strays.keep);
    }
}

pub(in crate::tracker) fn reap_and_untrack(
    core: &Core,
    entry: &Arc<Tracked>,
    pidfd: Option<&Arc<PidFd>>,
) {
    // Done while its zombie still pins its session, since its job may keep its strays.
    suspend::resume_if_suspended(core, entry);
    adopted_zombies::remember_for_zombies(core, &entry.root);
    if (entry.child || entry.lacks_status())
        && let Some(fd) = pidfd.cloned().or_else(|| entry.open_pidfd(&core.proc, core.pid_scope()))
    {
        finish_later(core, entry, fd);
    }
    core.cgroups.remove_task_cgroup(entry.root.cgroup.as_ref());
    untrack(core, entry.root.row);
}

/// Releases waiters once the rows are written, reaps our zombies, and keeps survivors.
pub(in crate::tracker) fn release_ended(core: &Core, rows: &[ProcessId]) {
    for &row in rows {
        let Some(entry) = core.registry.get(row) else { continue };
        // A root whose end could not be recorded is kept, even if a waiter already has its status.
        if entry.is_dead() && entry.cause().is_none() {
            entry.mark_recorded();
            reap_and_untrack(core, &entry, None);
        } else if entry.status().is_some() {
            // A dead root whose task cgroup is not empty: its death has been reported, and the
            // health pass retries.
            entry.give_up();
        } else {
            core.registry.give_up(&entry);
        }
    }
}

/// Reaps a dead child, and records its status if its row has none; later if that is not possible
/// yet.
fn finish_later(core: &Core, entry: &Arc<Tracked>, pidfd: Arc<PidFd>) {
    let unfinished = Unfinished { entry: Arc::clone(entry), pidfd, since: Instant::now() };
    if !finish(core, &unfinished) {
        core.pending.unfinished.push(unfinished);
        if core.passes.is_monitoring() {
            core.registry.deaths.wake();
        }
    }
}

/// Retries the processes that could not be finished.
pub(in crate::tracker) fn finish_late(core: &Core) {
    let late = core.pending.unfinished.take();
    let late: Vec<Unfinished> = late.into_iter().filter(|late| !finish(core, late)).collect();
    core.pending.unfinished.extend(late);
}

/// Takes the remaining steps for a dead process; returns whether all are done.
fn finish(core: &Core, Unfinished { entry, pidfd, since }: &Unfinished) -> bool {
    // 1. Determine the status, for callers that wait for the process.
    let status = match entry.learn_status(pidfd, Instant::now()) {
        StatusReading::Status(status) => status,
        StatusReading::NotYet => return false,
        StatusReading::Unreaped
            if since.elapsed() < UNREAPED_LIMIT || exit_statuses::is_traced(core, entry) =>
        {
            return false;
        }
        StatusReading::Unreaped => entry.publish(ExitStatus::Unobserved),
    };
    // 2. Write it to the row, before the zombie is reaped, so that it is not lost if we die in
    //    between.
    if entry.lacks_status() {
        if let Err(error) = core.store.note_status(
            entry.root.row,
            core.instance.id,
            status,
            entry.has_dumped_core(),
        ) {
            tracing::debug!("{error}; will be retried");
            return false;
        }
        entry.has_noted_status();
    }
    // 3. Dismiss the keeper, which was kept because it reports the status.
    if entry.keeper.is_some() && entry.is_over() {
        let leave = entry.strays.keep || keeper_departure::is_released(core, entry.root.row);
        keeper_departure::part_with_keeper(core, entry, leave);
    }
    // 4. Reap the zombie. If a tracer holds it, the tracer has precedence.
    !(entry.child && matches!(pidfd.child_status(true), Ok(None)))
}

/// Logs which statuses are lost when a host stops.
pub(in crate::tracker) fn log_lost_statuses(core: &Core) {
    finish_late(core);
    for late in core.pending.unfinished.take() {
        if late.entry.lacks_status() {
            tracing::error!(
                "the exit status of process {} for task {} is lost: it was not available before this program stopped",
                late.entry.root.identity.pid,
                task_text(late.entry.root.task.as_ref()),
            );
        }
        keeper_departure::part_with_keeper(core, &late.entry, true);
    }
}
