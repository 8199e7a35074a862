//! Leaks, passes and reports.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::{
    Evidence, EvidenceKey, LeakKind, Millis, Outcome, PassKind, ProcessId, Rule, RuleKey, TaskId,
    millis,
};
use crate::identity::Pid;

/// A leak about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewLeak {
    pub(crate) kind: LeakKind,
    pub(crate) rule: Rule,
    pub(crate) evidence: Evidence,
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
    /// Row number of its tree's root; its own where it is the root itself.
    pub root: ProcessId,
    /// Whether the whole tree could be seen: `false` where only a session held it, which a daemon may have left before it was
    /// observed.
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
    /// The time from the first signal until it was dead; serialized as `died_after_ms`, in milliseconds.
    #[serde(rename = "died_after_ms", serialize_with = "whole_millis_or_null")]
    pub died_after: Option<Duration>,
    /// The signal that ended it, for [`Outcome::Term`], where it is known.
    pub stop_signal: Option<i32>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Serializes a time as Unix milliseconds.
pub(crate) fn unix_millis<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(Millis::from(*time).0)
}

pub(super) fn whole_millis<S: Serializer>(
    span: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(millis(*span))
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn whole_millis_or_null<S: Serializer>(
    span: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    span.map(millis).serialize(serializer)
}

/// Figures of a pass, as in its row.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// Which check.
    pub kind: PassKind,
    /// When it started.
    pub started_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Number of processes checked.
    pub checked: u64,
    /// Those of them that required action.
    pub found: u64,
    /// Those of them that are known to be dead now.
    pub ended: u64,
    /// Those of them that could not be ended.
    pub survived: u64,
    /// Processes that could not be judged and were left running.
    pub unknown: u64,
    /// The first error.
    pub error: Option<String>,
}

/// The passes of one kind since a time; shows whether checks were running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassSummary {
    /// Which check.
    pub kind: PassKind,
    /// The number of passes, never 0.
    pub passes: u64,
    /// Those of them in which something went wrong.
    pub failed: u64,
    /// When the first one started.
    pub first_at: SystemTime,
    /// When the last one started.
    pub last_at: SystemTime,
    /// The longest time between the starts of two consecutive passes; zero where there was only one.
    pub longest_gap: Duration,
}

/// One process that a call or a pass handled.
#[derive(Clone, Debug, Serialize)]
pub struct Ending {
    /// The task it belonged to.
    pub task_id: Option<TaskId>,
    /// Its pid.
    pub pid: Pid,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Why it was handled.
    pub rule: String,
    /// The evidence that linked it to the task.
    pub evidence: String,
    /// The outcome; in a dry run, what would be done.
    pub outcome: Outcome,
    /// The stop signal that it was sent last before it ended, where that is known; not serialized.
    #[serde(skip)]
    pub stop_signal: Option<i32>,
    /// The time from the first signal until it was dead; serialized as `died_after_ms`, in milliseconds.
    #[serde(rename = "died_after_ms", serialize_with = "whole_millis_or_null")]
    pub died_after: Option<Duration>,
    /// For a survivor: why it survived, and what to do.
    pub obstacle: Option<String>,
}

/// A process that could not be judged, or looks like a leak but may be a person's; it was left running.
#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    /// The task whose token it carries, where there is one.
    pub task_id: Option<TaskId>,
    /// Its pid.
    pub pid: Pid,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Why it was considered, and why it was left running.
    pub why: String,
}

/// The results of a call or a pass, process by process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Number of processes checked.
    pub checked: u64,
    /// Each process that was ended, was found gone, or survived.
    pub endings: Vec<Ending>,
    /// Each process that was left running because it could not be identified with certainty.
    pub suspects: Vec<Suspect>,
    /// Each process that has a name to match and is younger than the minimum age; it was left running.
    pub young: Vec<Suspect>,
    /// Processes that a dead instance left on purpose and this one adopted.
    pub adopted: u64,
    /// The errors that occurred, one line each. The pass went on.
    pub errors: Vec<String>,
}

impl Report {
    /// Returns how many processes had this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.endings.iter().filter(|ending| ending.outcome == outcome).count() as u64
    }

    /// Returns how many are known to be dead.
    pub fn ended(&self) -> u64 {
        self.count(Outcome::Gone) + self.count(Outcome::Term) + self.count(Outcome::Kill)
    }

    /// Returns how many could not be ended.
    pub fn survived(&self) -> u64 {
        self.count(Outcome::Survived)
    }

    /// Adds the error, if there is one.
    pub(crate) fn add_error<T>(&mut self, result: crate::error::Result<T>) {
        self.errors.extend(result.err().map(|error| error.to_string()));
    }

    /// Adds another report to this one.
    pub fn absorb(&mut self, other: Self) {
        self.checked += other.checked;
        self.endings.extend(other.endings);
        self.suspects.extend(other.suspects);
        self.young.extend(other.young);
        self.adopted += other.adopted;
        self.errors.extend(other.errors);
    }
}
