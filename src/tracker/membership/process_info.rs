//! The observed facts of a process that belongs to a tree, from the scan that finds it to the row,
//! the leak and the report.

use std::time::Duration;

use crate::{
    identity::{Identity, Pid},
    model::Evidence,
    model::{InstanceId, Limits, Millis, NewProcess, Origin, ProcessSpec},
    redact::mask_command,
    sys::{
        Pinned, Proc,
        proc::{age, cpu_time},
    },
    tracker::runtime::tracked::Root,
};

/// A process of a tree, as it was when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    pub(crate) identity: Identity,
    /// The evidence that links it to the root.
    pub(crate) evidence: Evidence,
    /// Program and arguments, with secrets masked; empty if they could not be read.
    pub(crate) command: Vec<String>,
    /// Resident bytes.
    pub(crate) rss: u64,
    pub(crate) cpu: Duration,
    pub(crate) age: Duration,
    /// Its uid, or the root's if its own could not be read.
    pub(crate) uid: u32,
}

impl ProcessInfo {
    /// Returns the facts that `/proc` shows of a process, without its command.
    pub(in crate::tracker) fn observed(
        proc: &Proc,
        pinned: &Pinned,
        root: &Root,
        evidence: Evidence,
    ) -> Self {
        let stat = &pinned.stat;
        Self {
            identity: pinned.identity,
            evidence,
            command: Vec::new(),
            rss: stat.rss_bytes,
            cpu: cpu_time(stat),
            age: age(stat.start_tick),
            uid: pinned.uid(proc).ok().flatten().unwrap_or(root.uid),
        }
    }

    /// Returns the known facts of a recorded process that is gone.
    pub(in crate::tracker) fn gone(identity: Identity, root: &Root, evidence: Evidence) -> Self {
        Self {
            identity,
            evidence,
            command: Vec::new(),
            rss: 0,
            cpu: Duration::ZERO,
            age: Duration::ZERO,
            uid: root.uid,
        }
    }

    /// Returns a row for the process below `root`, claimed by `owner` from the start.
    pub(in crate::tracker) fn new_row(&self, owner: InstanceId, root: &Root) -> NewProcess {
        let limits = Limits::with_grace(root.limits.grace);
        NewProcess {
            spec: ProcessSpec {
                task_id: root.task.clone(),
                root: Some(root.row),
                command: self.command.clone(),
                started_at: Millis::now().minus(self.age).into(),
                evidence: Some(self.evidence.to_string()),
                end_plan: root.end_plan.clone(),
                ..ProcessSpec::new(owner, Origin::Descendant, self.identity, self.uid, limits)
            },
            claimed: true,
            peak_rss: Some(self.rss),
            cpu: Some(self.cpu),
            allow_survivor: false,
        }
    }
}

/// Returns the program and, if they may be recorded, its arguments, with secrets masked; a zombie
/// or a kernel thread has none.
pub(in crate::tracker) fn command_of(proc: &Proc, pid: Pid, arguments: bool) -> Vec<String> {
    let command = proc.command(pid).ok().flatten().unwrap_or_default();
    let recorded = if arguments { command.len() } else { 1 };
    let text = |argument: &Vec<u8>| String::from_utf8_lossy(argument).into_owned();
    mask_command(&command.iter().take(recorded).map(text).collect::<Vec<_>>())
}
