//! Closes rows of processes that cannot be checked.

use super::left_behind;
use crate::{
    error::{Error, Kind, Result},
    model::{Millis, ProcessId, TaskId},
    sys::{Pinned, Probe},
    tracker::core::Core,
};

/// Closes the rows of a task whose processes cannot be checked; see
/// [`Tracker::forget`](crate::Tracker::forget).
pub(in crate::tracker) fn forget(core: &Core, task_id: &str, asked_by: &str) -> Result<u64> {
    let task = TaskId::new(task_id)?;
    let rows = core.store.live_of_task(&task)?;
    if rows.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!("the ledger has no live row for task {task_id:?}: `procledger ps` lists them"),
        ));
    }
    for row in &rows {
        let what = match Pinned::probe(&core.proc, core.pid_scope(), &row.spec.identity) {
            Probe::Alive(_) => "is still running as process",
            // Its row is the only record that leads to the processes that it left.
            Probe::Zombie(_) | Probe::Gone if left_behind::has_left_something(core, row)? => {
                "has left processes that are still running, and was process"
            }
            Probe::Zombie(_) | Probe::Gone | Probe::Unknown(_) => continue,
        };
        let pid = row.pid();
        return Err(Error::new(
            Kind::Busy,
            format!("task {task_id:?} {what} {pid}: end it with `procledger kill`"),
        ));
    }
    let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
    let forgotten = core.store.forget(&ids, asked_by, Millis::now())?;
    core.export.notify();
    Ok(forgotten)
}
