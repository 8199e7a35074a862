//! Closing rows of processes that cannot be checked.

use crate::{
    error::{Error, Kind, Result},
    model::{Millis, ProcessId, TaskId},
    sys::{Pinned, Probe},
    tracker::Tracker,
};

impl Tracker {
    /// Closes the rows of a task whose processes cannot be checked from here, or are gone; returns how many.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when the task has no live row; [`is_busy`](Error::is_busy) when its process, or a
    /// process that it has left, is known to be alive: forgetting it would leak it.
    pub fn forget(&self, task_id: &str, asked_by: &str) -> Result<u64> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let task = TaskId::new(task_id)?;
        let rows = core.store.live_of_task(&task)?;
        if rows.is_empty() {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "the ledger has no live row for task {task_id:?}: `procledger ps` lists them"
                ),
            ));
        }
        for row in &rows {
            let what = match Pinned::probe(&core.proc, core.place(), &row.identity) {
                Probe::Alive(_) => "still runs as process",
                // Its row is the only record that leads to what it left.
                Probe::Zombie(_) | Probe::Gone if core.has_left_something(row)? => {
                    "has left processes that still run, and was process"
                }
                Probe::Zombie(_) | Probe::Gone | Probe::Unknown(_) => continue,
            };
            let pid = row.identity.pid;
            return Err(Error::new(
                Kind::Busy,
                format!("task {task_id:?} {what} {pid}: end it with `procledger kill`"),
            ));
        }
        let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
        let forgotten = core.store.forget(&ids, asked_by, Millis::now())?;
        core.notify_export();
        Ok(forgotten)
    }
}
