//! `ps`: what runs, and on request what ran.

use std::cmp::Reverse;

use clap::Args;
use procledger::{Millis, ProcessRecord, State};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::{Table, bytes, shell_words, span},
};

/// List the processes that run now
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger ps --all --json | jq '.[] | select(.exit_code != 0) | .task_id'

--json: an array of objects, always with all of these:
  id, task_id, pid, state (running, ending, survived, ended), owner (program), owner_instance,
  root (id of the process it was found below, null for a root), origin, containment, command
  (array), cwd, uid, started_at, ended_at (RFC 3339, UTC), exit_code, exit_signal, end_reason,
  end_rule, end_evidence (why somebody ended it, and what tied it to its task), peak_rss_bytes, cpu_ms, survive, grace_ms, max_runtime_ms, max_rss_bytes, asked_by, last_error
Fields may be added, none is renamed or removed.")]
pub(crate) struct PsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also what has ended, newest first
    #[arg(long)]
    all: bool,
    /// With --all: at most so many that have ended
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "all",
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Whole commands, however long
    #[arg(long)]
    wide: bool,
}

impl PsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let ledger = context.read()?;
        let mut rows = ledger.running()?;
        rows.sort_by_key(|row| (row.started_at, row.id));
        if self.all {
            let mut ended = ledger.history(None, None, self.limit)?;
            ended.retain(|row| row.state == State::Ended);
            ended.sort_by_key(|row| Reverse((row.ended_at, row.id)));
            if u32::try_from(ended.len()) == Ok(self.limit) {
                output::to_stderr(&format!(
                    "the newest {} that ended: --limit N shows more",
                    self.limit
                ));
            }
            rows.extend(ended);
        }
        let text = if self.json {
            output::json(&rows.iter().map(Line::from).collect::<Vec<_>>())?
        } else {
            self.table(&rows)
        };
        output::print(text)?;
        Ok(Exit::DONE)
    }

    fn table(&self, rows: &[ProcessRecord]) -> String {
        let header = ["TASK", "PID", "STATE", "AGE", "MEMORY", "CONTAINMENT", "OWNER", "COMMAND"];
        let mut table = Table::cut(&header, self.wide).right(1).right(3).right(4);
        let now = Millis::now();
        for row in rows {
            let until = row.ended_at.unwrap_or(now);
            table.row([
                row.task.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                row.identity.pid.to_string(),
                state(row),
                span(until.since(row.started_at)),
                bytes(row.peak_rss),
                row.containment.to_string(),
                row.owner_program.clone(),
                shell_words(&row.command),
            ]);
        }
        table.text()
    }
}

/// `running`, or how it ended: `exited, exit code 1`.
fn state(row: &ProcessRecord) -> String {
    match (row.end_reason, row.status) {
        (Some(reason), Some(status)) => format!("{reason}, {status}"),
        (Some(reason), None) => reason.to_string(),
        (None, _) => row.state.as_str().to_owned(),
    }
}

/// A row in JSON. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct Line<'a> {
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
}

impl<'a> From<&'a ProcessRecord> for Line<'a> {
    fn from(row: &'a ProcessRecord) -> Self {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use procledger::{
        Containment, EndReason, ExitStatus, Identity, InstanceId, Limits, Origin, Pid, Place,
        ProcessId, TaskId,
    };
    use uuid::Uuid;

    use super::*;

    fn row() -> ProcessRecord {
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
        let json = output::json(&[Line::from(&row())]).expect("JSON");
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
        ] {
            assert!(json.contains(field), "{field} in {json}");
        }
    }

    #[test]
    fn a_row_of_the_table_is_one_harmless_line() {
        let args = PsArgs { json: false, all: true, limit: 10, wide: true };
        let text = args.table(&[row()]);
        assert_eq!(text.lines().count(), 2, "{text}");
        for part in
            ["evil\\x0a\\u{9b}task", "exited, exit code 1", "4s", "1.0 MiB", "sh -c 'exit 1'"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
