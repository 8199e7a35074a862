//! The results of a call or a pass, process by process.

use std::time::Duration;

use serde::Serialize;

use super::{Outcome, TaskId, millis::whole_millis_or_null};
use crate::identity::Pid;

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
    /// The last stop signal that was sent to it before it ended, if known; not serialized.
    #[serde(skip)]
    pub stop_signal: Option<i32>,
    /// The time from the first signal until it was dead; serialized as `died_after_ms`, in
    /// milliseconds.
    #[serde(rename = "died_after_ms", serialize_with = "whole_millis_or_null")]
    pub died_after: Option<Duration>,
    /// For a survivor: why it survived, and what to do.
    pub obstacle: Option<String>,
}

/// A process that was left running because it could not be judged, or because it looks like a leak
/// but a person may be using it.
#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    /// The task whose token it carries, if it carries one.
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
    /// Each process that matches a configured name but was left running because it is younger than
    /// the minimum age.
    pub young: Vec<Suspect>,
    /// Number of processes that a dead instance left on purpose and this one adopted.
    pub adopted: u64,
    /// Number of roots and recorded descendants that were to be ended and are not known to be dead,
    /// because they or the rest of their tree could not be examined, or because it is unknown
    /// whether their instance is dead. Their rows stay live, and the suspects say why; not
    /// serialized.
    #[serde(skip)]
    pub unverified: u64,
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

    /// Adds the error of a result, if it is one.
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
        self.unverified += other.unverified;
        self.errors.extend(other.errors);
    }
}
