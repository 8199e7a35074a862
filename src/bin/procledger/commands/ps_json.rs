//! A process in JSON.

use procledger::{Attributes, EndPlan, FigureSource, ProcessRecord, TreeRecord};
use serde::Serialize;

use crate::render::rfc3339;

/// A row in JSON. Stable: the help text of `ps` documents it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    id: i64,
    task_id: Option<&'a str>,
    pid: u32,
    state: &'static str,
    owner: &'a str,
    owner_instance: i64,
    owner_alive: Option<bool>,
    root: Option<i64>,
    origin: &'static str,
    containment: &'static str,
    command: &'a [String],
    cwd: Option<&'a str>,
    uid: u32,
    attributes: &'a Attributes,
    started_at: String,
    ended_at: Option<String>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    core_dumped: bool,
    end_reason: Option<&'static str>,
    end_rule: Option<&'a str>,
    end_evidence: Option<&'a str>,
    peak_rss_bytes: Option<u64>,
    cpu_ms: Option<u128>,
    survive: bool,
    grace_ms: u128,
    end_plan: &'a EndPlan,
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
        let end = row.life.end();
        let because = end.and_then(|end| end.because.as_ref());
        Self {
            id: row.id.0,
            task_id: row.spec.task_id.as_ref().map(procledger::TaskId::as_str),
            pid: row.pid().get(),
            state: row.life.state().as_str(),
            owner: &row.owner_program,
            owner_instance: row.owner.0,
            owner_alive: tree.and_then(|tree| tree.owner_alive),
            root: row.spec.root.map(|root| root.0),
            origin: row.spec.origin.as_str(),
            containment: row.spec.containment.as_str(),
            command: &row.spec.command,
            cwd: row.spec.cwd.as_deref(),
            uid: row.spec.uid,
            attributes: &row.spec.attributes,
            started_at: rfc3339(row.spec.started_at),
            ended_at: end.map(|end| rfc3339(end.at)),
            exit_code: end.and_then(|end| end.status.code()),
            exit_signal: end.and_then(|end| end.status.signal()),
            core_dumped: end.is_some_and(|end| end.core_dumped),
            end_reason: end.map(|end| end.reason.as_str()),
            end_rule: because.map(|it| it.rule.as_str()),
            end_evidence: because.map(|it| it.evidence.as_str()),
            peak_rss_bytes: row.peak_rss,
            cpu_ms: row.cpu.map(|cpu| cpu.as_millis()),
            survive: row.spec.limits.survive,
            grace_ms: row.spec.limits.grace.as_millis(),
            end_plan: &row.spec.end_plan,
            max_runtime_ms: row.spec.limits.max_runtime.map(|limit| limit.as_millis()),
            max_rss_bytes: row.spec.limits.max_rss,
            asked_by: row.requested_by.as_deref(),
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
    use std::time::{Duration, SystemTime};

    use procledger::{End, EndReason, ExitStatus, Job, Life, Pid, Query, Tracker};

    use super::*;
    use crate::output;

    /// Returns the row of a program that has ended, with figures that do not depend on when the
    /// test runs.
    pub(in crate::commands) fn row() -> ProcessRecord {
        let folder = tempfile::tempdir().expect("a folder");
        let tracker = Tracker::builder(folder.path().join("ledger.db")).open().expect("opens");
        let job = Job::new("evil\n\u{9b}task", "sh").args(["-c", "exit 1"]);
        let job = job.grace(Duration::from_millis(100)).max_rss(1 << 20);
        tracker.spawn(job).expect("started").wait().expect("ended");
        let mut row = tracker.ledger().history(Query::new().limit(1)).expect("read").remove(0);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_736_512_496);
        row.spec.identity.pid = Pid::new(4711).expect("valid");
        row.spec.started_at = start;
        row.life = Life::Ended(End {
            at: start + Duration::from_secs(4),
            status: ExitStatus::Exited(1),
            core_dumped: false,
            reason: EndReason::Exited,
            because: None,
        });
        ProcessRecord { owner_program: "api".to_owned(), peak_rss: Some(1 << 20), cpu: None, ..row }
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
