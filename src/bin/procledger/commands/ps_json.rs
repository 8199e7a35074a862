//! A process in JSON.

use procledger::{FigureSource, Millis, ProcessRecord, TreeRecord};
use serde::Serialize;

/// A row in JSON. Stable: the help text of `ps` documents it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    id: i64,
    task_id: Option<&'a str>,
    pid: u32,
    state: &'static str,
    owner: &'a str,
    owner_instance: i64,
    root: Option<i64>,
    origin: &'static str,
    containment: &'static str,
    command: &'a [String],
    cwd: Option<&'a str>,
    uid: u32,
    started_at: String,
    ended_at: Option<String>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    end_reason: Option<&'static str>,
    end_rule: Option<&'a str>,
    end_evidence: Option<&'a str>,
    peak_rss_bytes: Option<u64>,
    cpu_ms: Option<u128>,
    survive: bool,
    grace_ms: u128,
    max_runtime_ms: Option<u128>,
    max_rss_bytes: Option<u64>,
    asked_by: Option<&'a str>,
    last_error: Option<&'a str>,
    alive: Option<bool>,
    tree_rss_bytes: Option<u64>,
    tree_cpu_ms: Option<u128>,
    descendants: Option<u64>,
    figures: Option<&'static str>,
}

impl<'a> Line<'a> {
    /// Adds the figures of its tree, if it is a root that has not ended.
    pub(super) fn new(row: &'a ProcessRecord, tree: Option<&TreeRecord>) -> Self {
        let live = tree.filter(|tree| tree.source == FigureSource::Live);
        Self {
            id: row.id.0,
            task_id: row.task.as_ref().map(procledger::TaskId::as_str),
            pid: row.identity.pid.get(),
            state: row.state.as_str(),
            owner: &row.owner_program,
            owner_instance: row.owner.0,
            root: row.root.map(|root| root.0),
            origin: row.origin.as_str(),
            containment: row.containment.as_str(),
            command: &row.command,
            cwd: row.cwd.as_deref(),
            uid: row.uid,
            started_at: row.started_at.to_rfc3339(),
            ended_at: row.ended_at.map(Millis::to_rfc3339),
            exit_code: row.status.and_then(procledger::ExitStatus::code),
            exit_signal: row.status.and_then(procledger::ExitStatus::signal),
            end_reason: row.end_reason.map(procledger::EndReason::as_str),
            end_rule: row.end_rule.as_deref(),
            end_evidence: row.end_evidence.as_deref(),
            peak_rss_bytes: row.peak_rss,
            cpu_ms: row.cpu.map(|cpu| cpu.as_millis()),
            survive: row.limits.survive,
            grace_ms: row.limits.grace.as_millis(),
            max_runtime_ms: row.limits.max_runtime.map(|limit| limit.as_millis()),
            max_rss_bytes: row.limits.max_rss,
            asked_by: row.asked_by.as_deref(),
            last_error: row.last_error.as_deref(),
            alive: live.and_then(|tree| tree.members.first()).map(|root| root.alive),
            tree_rss_bytes: tree.and_then(|tree| tree.rss_bytes),
            tree_cpu_ms: tree.and_then(|tree| tree.cpu).map(|cpu| cpu.as_millis()),
            descendants: tree.map(TreeRecord::descendants),
            figures: tree.map(|tree| tree.source.as_str()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use procledger::{
        Containment, EndReason, ExitStatus, Identity, InstanceId, Limits, Origin, Pid, Place,
        ProcessId, State, TaskId,
    };
    use uuid::Uuid;

    use super::*;
    use crate::output;

    pub(in crate::commands) fn row() -> ProcessRecord {
        let place = Place {
            machine_id: None,
            boot_id: Uuid::from_u128(1),
            pid_namespace: 1,
            boottime_offset: 0,
        };
        let pid = Pid::new(4711).expect("valid");
        ProcessRecord {
            id: ProcessId(3),
            task: TaskId::new("evil\n\u{9b}task").ok(),
            owner: InstanceId(2),
            owner_program: "api".to_owned(),
            root: None,
            origin: Origin::Spawned,
            token: None,
            identity: Identity { place, pid, start_tick: 7, pidfd_inode: None },
            session: None,
            cgroup: None,
            containment: Containment::Session,
            keeper: None,
            command: vec!["sh".to_owned(), "-c".to_owned(), "exit 1".to_owned()],
            cwd: None,
            uid: 1000,
            state: State::Ended,
            claimed_by: None,
            asked_by: None,
            started_at: Millis(1_736_512_496_000),
            ended_at: Some(Millis(1_736_512_500_000)),
            status: Some(ExitStatus::Exited(1)),
            end_reason: Some(EndReason::Exited),
            end_rule: None,
            end_evidence: None,
            limits: Limits {
                survive: false,
                grace: Duration::from_millis(100),
                max_runtime: None,
                max_rss: Some(1 << 20),
            },
            peak_rss: Some(1 << 20),
            cpu: None,
            last_error: None,
        }
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let json = output::json(&[Line::new(&row(), None)]).expect("JSON");
        assert!(json.contains(r#""task_id": "evil\n\u009btask""#), "{json}");
        for field in [
            r#""pid": 4711,"#,
            r#""state": "ended","#,
            r#""root": null,"#,
            r#""started_at": "2025-01-10T12:34:56.000Z","#,
            r#""exit_code": 1,"#,
            r#""exit_signal": null,"#,
            r#""end_reason": "exited","#,
            r#""grace_ms": 100,"#,
            r#""tree_rss_bytes": null,"#,
        ] {
            assert!(json.contains(field), "{field} in {json}");
        }
    }
}
