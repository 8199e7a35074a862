//! Leaks: processes that outlived their owner.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{
    EvidenceKey, Justification, LeakKind, Millis, Outcome, ProcessId, RuleKey, TaskId,
    millis::{unix_millis, whole_millis, whole_millis_or_null},
};
use crate::identity::Pid;

/// A leak about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewLeak {
    pub(crate) kind: LeakKind,
    pub(crate) because: Justification,
    pub(crate) found_at: Millis,
    pub(crate) age: Duration,
    pub(crate) rss: Option<u64>,
    pub(crate) outcome: Outcome,
    pub(crate) died_after: Option<Duration>,
    /// The signal that ended it, for [`Outcome::Term`].
    pub(crate) stop_signal: Option<i32>,
}

/// One leak, joined with its process.
#[derive(Clone, Debug, Serialize)]
pub struct LeakRecord {
    /// Row number of the process.
    pub process: ProcessId,
    /// Row number of its tree's root; its own if it is the root itself.
    pub root: ProcessId,
    /// Whether the whole tree could be seen; `false` if only a session contained it, which a daemon
    /// may have left before it was observed.
    pub verified: bool,
    /// The task it belonged to.
    pub task_id: Option<TaskId>,
    /// Its pid.
    pub pid: Pid,
    /// What it was.
    pub kind: LeakKind,
    /// Why it counts as a leak, as a sentence.
    pub rule: String,
    /// Identifies the rule.
    pub rule_key: RuleKey,
    /// The evidence that linked it to the task.
    pub evidence: String,
    /// Identifies the evidence.
    pub evidence_key: EvidenceKey,
    /// When it was found; serialized as Unix milliseconds.
    #[serde(serialize_with = "unix_millis")]
    pub found_at: SystemTime,
    /// The time from its start until it was found; serialized as `age_ms`, in milliseconds.
    #[serde(rename = "age_ms", serialize_with = "whole_millis")]
    pub age: Duration,
    /// Resident bytes when it was found.
    pub rss_bytes: Option<u64>,
    /// The outcome.
    pub outcome: Outcome,
    /// The time from the first signal until it was dead; serialized as `died_after_ms`, in
    /// milliseconds.
    #[serde(rename = "died_after_ms", serialize_with = "whole_millis_or_null")]
    pub died_after: Option<Duration>,
    /// The signal that ended it, for [`Outcome::Term`], where it is known.
    pub stop_signal: Option<i32>,
    /// Program and arguments.
    pub command: Vec<String>,
}
