//! Describes why a process survived, and what to do, in one line.

use crate::{
    error::Error,
    identity::Pid,
    sys::{Proc, snapshot::Snapshot},
};

/// Describes why a process of `uid` survived. `refused` is why it could not be signalled. Its state
/// is taken from the last snapshot; a tracer or freezer that holds it is looked up now.
pub(super) fn survival_reason(
    proc: &Proc,
    (pid, uid): (Pid, u32),
    refused: Option<&Error>,
    snapshot: &Snapshot,
) -> String {
    if let Some(error) = refused {
        return if error.is_denied() { denied(pid, uid) } else { error.to_string() };
    }
    if let Some(cgroup) = proc.freezer(pid) {
        return format!(
            "process {pid} is frozen in the cgroup `{cgroup}` of the freezer: write THAWED to its freezer.state"
        );
    }
    if let Some(tracer) = proc.tracer(pid) {
        return format!(
            "process {pid} is being traced by process {tracer}: detach the tracer or end it"
        );
    }
    match snapshot.get(pid) {
        Some(stat) if stat.is_uninterruptible() => format!(
            "process {pid} is in uninterruptible sleep: it ends when the device or file system answers"
        ),
        Some(stat) if stat.is_zombie() => {
            format!("process {pid} has threads that do not exit: see /proc/{pid}/task")
        }
        _ => format!(
            "process {pid} is still running after SIGKILL: see /proc/{pid}/status and /proc/{pid}/wchan"
        ),
    }
}

fn denied(pid: Pid, uid: u32) -> String {
    format!(
        "no permission to signal process {pid}: it belongs to uid {uid}; end it as that user or as root"
    )
}
