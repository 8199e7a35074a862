//! What stands in the way of an end, in one line that says what to do.

use super::member::Member;
use crate::{
    identity::Pid,
    sys::{Proc, snapshot::Snapshot},
};

/// The state is that of the last snapshot, who holds the process that of now.
pub(super) fn obstacle(proc: &Proc, member: &Member, snapshot: &Snapshot) -> String {
    let pid = member.identity.pid;
    if let Some(error) = &member.refused {
        return if error.is_denied() { denied(pid, member.uid) } else { error.to_string() };
    }
    if let Some(cgroup) = proc.freezer(pid) {
        return format!(
            "process {pid} is frozen in the cgroup `{cgroup}` of the freezer: write THAWED to its freezer.state"
        );
    }
    if let Some(tracer) = proc.tracer(pid) {
        return format!(
            "process {pid} is held by process {tracer}, which traces it: let that one detach, or end it"
        );
    }
    match snapshot.get(pid) {
        Some(stat) if stat.is_uninterruptible() => format!(
            "process {pid} is in uninterruptible sleep: it ends when the device or file system answers"
        ),
        Some(stat) if stat.is_zombie() => {
            format!("process {pid} has threads that do not end: look at /proc/{pid}/task")
        }
        _ => format!(
            "process {pid} is still there after SIGKILL: look at /proc/{pid}/status and /proc/{pid}/wchan"
        ),
    }
}

fn denied(pid: Pid, uid: u32) -> String {
    format!(
        "process {pid} may not be signalled: it belongs to uid {uid}; end it as that user or as root"
    )
}
