//! Returns handles to tasks that this instance runs, and waits for them, by task id.

use std::sync::Arc;

use super::{exit::Exit, process::Process};
use crate::{
    error::{Error, Kind, Result},
    model::TaskId,
    tracker::{core::Core, runtime::tracked::Tracked},
};

/// How many of the task's last rows are searched for its root; the others are those of descendants.
const LAST_ROWS: u32 = 1_000;

/// Returns another handle to a task; see [`Tracker::get`](crate::Tracker::get).
pub(in crate::tracker) fn get(core: &Arc<Core>, task_id: &str) -> Result<Option<Process>> {
    let task = TaskId::new(task_id)?;
    let Some(entry) = newest(core, &task) else { return Ok(None) };
    let Some(pidfd) = entry.open_pidfd(&core.proc, core.pid_scope()) else { return Ok(None) };
    // A separate descriptor, since a runtime can watch each only once.
    let pidfd = Arc::new(pidfd.try_clone()?);
    Ok(Some(Process::new(Arc::clone(core), entry, pidfd)))
}

/// Waits for a task; see [`Tracker::wait`](crate::Tracker::wait).
pub(in crate::tracker) fn wait(core: &Arc<Core>, task_id: &str) -> Result<Exit> {
    match get(core, task_id)? {
        Some(mut process) => process.wait(),
        None => last_exit(core, task_id),
    }
}

/// Returns how the last root of a task that this instance ran ended.
pub(in crate::tracker) fn last_exit(core: &Core, task_id: &str) -> Result<Exit> {
    let task = TaskId::new(task_id)?;
    let rows = core.store.history(Some(&task), None, Some(LAST_ROWS))?;
    let is_own = |own| own == core.instance.id;
    rows.into_iter()
        .filter(|row| row.spec.root.is_none() && is_own(row.spec.recorded_by))
        .find_map(Exit::of_row)
        .ok_or_else(|| {
            let message = format!("this instance has not run the task {:?}", task.as_str());
            Error::new(Kind::NotFound, message)
        })
}

/// Returns the last root of the task that is tracked; an older one is a survivor.
fn newest(core: &Core, task: &TaskId) -> Option<Arc<Tracked>> {
    let all = core.registry.all().into_iter();
    all.filter(|entry| entry.root.task.as_ref() == Some(task)).max_by_key(|entry| entry.root.row)
}
