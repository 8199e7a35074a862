//! Passes, as the ledger records them.

use std::time::{Duration, SystemTime};

use super::PassKind;

/// The figures of a pass, as recorded in its row.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// The kind of check.
    pub kind: PassKind,
    /// When it started.
    pub started_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Number of processes checked.
    pub checked: u64,
    /// Number of those that required action.
    pub found: u64,
    /// Number of those that are known to be dead now.
    pub ended: u64,
    /// Number of those that could not be ended.
    pub survived: u64,
    /// Number of processes that could not be judged and were left running.
    pub unknown: u64,
    /// The first error.
    pub error: Option<String>,
}

/// The passes of one kind since a given time; shows whether checks were running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassSummary {
    /// The kind of check.
    pub kind: PassKind,
    /// The number of passes, never 0.
    pub passes: u64,
    /// The number of those in which something went wrong.
    pub failed: u64,
    /// When the first one started.
    pub first_at: SystemTime,
    /// When the last one started.
    pub last_at: SystemTime,
    /// The longest time between the starts of two consecutive passes; zero where there was only
    /// one.
    pub longest_gap: Duration,
}
