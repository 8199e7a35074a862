//! Handles exit statuses of dead processes that are not available yet.
//!
//! "Not yet" differs from "reaped by another process". A tracer (strace, gdb) takes precedence over
//! the parent of a process that it traces: until it has reaped that process, or detached, waitid(2)
//! reports nothing to the parent (ptrace(2)). A keeper must first be scheduled. The kernel reports
//! the status of a process that is not our child only once its parent has reaped it
//! (`PIDFD_GET_INFO`, Linux 6.15).
//!
//! 1. The end is not recorded at once: the status is queried repeatedly for [`STATUS_PATIENCE`]
//!    ([`PendingWrites::statuses`]). This delays neither the handling of other processes' deaths
//!    nor a wait for one of them.
//! 2. A tracer may hang. Then the end is recorded without the status, so that the processes that
//!    the root left are ended. The pidfd is kept, and the status is written to the row once it is
//!    available ([`PendingWrites::unfinished`]); callers that wait for the process then get it as
//!    well.
//! 3. If the host stops before that, it logs the statuses that are lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    model::{ExitStatus, task_text},
    sys::PidFd,
    tracker::{
        core::Core,
        runtime::tracked::{Dead, REAPED_BY_PARENT, StatusReading, Tracked},
    },
};

/// How long an end waits for a status that will become available: strace and gdb release a process
/// within milliseconds.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two queries for such a status.
pub(in crate::tracker) const STATUS_PAUSE: Duration = Duration::from_millis(5);
/// How long a waiter waits for the parent of a process that is not our child, which reaps the
/// process as soon as it is scheduled.
pub(in crate::tracker) const REAPED_WITHIN: Duration = Duration::from_millis(100);

/// Returns the status of a dead process; `None` while the caller should wait for it. After that the
/// end is recorded without a status.
pub(in crate::tracker) fn status_or_patience(
    core: &Core,
    (entry, pidfd): &Dead,
    since: Instant,
    deadline: Instant,
) -> Option<ExitStatus> {
    let patient = match entry.learn_status(pidfd, deadline) {
        StatusReading::Status(status) => return Some(status),
        StatusReading::NotYet => true,
        StatusReading::Unreaped => is_traced(core, entry),
    };
    if patient && since.elapsed() < STATUS_PATIENCE {
        return None;
    }
    if patient {
        log_late_status(core, entry);
    }
    entry.mark_dead();
    Some(ExitStatus::Unobserved)
}

pub(in crate::tracker) fn is_traced(core: &Core, entry: &Tracked) -> bool {
    core.proc.tracer(entry.root.identity.pid).is_some()
}

fn log_late_status(core: &Core, entry: &Tracked) {
    let pid = entry.root.identity.pid;
    let task = task_text(entry.root.task.as_ref());
    let why = match core.proc.tracer(pid) {
        Some(tracer) => format!("process {tracer}, which traces it, has not released it"),
        None => "its keeper has not reported its status".into(),
    };
    tracing::warn!(
        "process {pid} for task {task} has ended, but {why}: its exit status will be recorded once it is available"
    );
}

/// Determines the status of a root that was ended here, or gives up after a time; the trees of a
/// call share the time since it `began`.
pub(in crate::tracker) fn learn_or_go_on(
    core: &Core,
    entry: &Arc<Tracked>,
    pidfd: &Arc<PidFd>,
    began: Instant,
) {
    let dead = (Arc::clone(entry), Arc::clone(pidfd));
    let deadline = began + REAPED_BY_PARENT;
    while status_or_patience(core, &dead, began, deadline).is_none() {
        std::thread::sleep(STATUS_PAUSE);
    }
}
