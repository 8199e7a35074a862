//! Closing rows that cannot be judged.

use super::Tracker;
use crate::{
    error::{Error, Kind, Result},
    os::{Pinned, Probe},
    record::{Millis, ProcessId, TaskId},
};

impl Tracker {
    /// Closes the rows of a task that cannot be judged from here, or whose process is gone; returns how many.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when the task has no live row; [`is_busy`](Error::is_busy) when its process
    /// is known to be alive: forgetting it would leak it.
    pub fn forget(&self, task_id: &str, asked_by: &str) -> Result<u64> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let task = TaskId::new(task_id)?;
        let rows = shared.store.live_of_task(&task)?;
        if rows.is_empty() {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "the ledger has no live row for task {task_id:?}: `procledger ps` lists them"
                ),
            ));
        }
        for row in &rows {
            if let Probe::Alive(_) = Pinned::probe(&shared.proc, shared.place(), &row.identity) {
                return Err(Error::new(
                    Kind::Busy,
                    format!(
                        "task {task_id:?} still runs as process {}: end it with `procledger kill`",
                        row.identity.pid
                    ),
                ));
            }
        }
        let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
        let forgotten = shared.store.forget(&ids, asked_by, Millis::now())?;
        shared.notify_export();
        Ok(forgotten)
    }
}
