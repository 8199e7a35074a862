//! Figures: what a tracker has counted since it was opened, and what a ledger contains.

use std::time::{Duration, SystemTime};

use super::{EndReason, LeakKind, Outcome, PassKind, State};

/// What one tracker has counted since it was opened. Returned by [`Tracker::metrics`](crate::Tracker::metrics).
///
/// Counts only grow. They cover this instance alone and are lost with it; lasting data is in the ledger, see [`LedgerMetrics`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Roots that this instance is responsible for now: the former implementation's `executing_count`.
    pub executing_count: u64,
    /// Those of them that only the health pass covers, because half of the descriptor limit is used up.
    pub unwatched: u64,
    /// Returns whether the monitor thread runs.
    pub monitoring: bool,
    /// Programs that were started.
    pub spawns: u64,
    /// Programs that were requested and not started, for whatever reason.
    pub spawn_failures: u64,
    /// Rows that this instance has ended, descendants included, by reason.
    pub ends: Vec<EndCount>,
    /// Leaks that this instance has recorded, by kind and outcome.
    ///
    /// A survivor counts as survived once, however often it is tried again, and once more when it is ended.
    pub leaks: Vec<LeakCount>,
    /// Processes of all instances that could not be ended and still exist. `None` when the ledger could not be read.
    pub survivors: Option<u64>,
    /// The passes of each kind.
    pub passes: Vec<PassMetrics>,
    /// How often the JSON export was replaced.
    pub export_writes: u64,
    /// How often replacing it failed.
    pub export_failures: u64,
    /// The time from the first signal to a process until it was dead, for each that was ended.
    pub reap_latency: Histogram,
    /// The time from the death of a root until its end was in the ledger, for each that the monitor or a health pass noticed.
    ///
    /// The kernel does not report when a process died, so this begins when it was last known to be alive: an upper bound.
    pub death_detection_latency: Histogram,
}

impl Metrics {
    /// Returns how many rows this instance has ended for this reason.
    pub fn ends_by(&self, reason: EndReason) -> u64 {
        self.ends.iter().filter(|end| end.reason == reason).map(|end| end.count).sum()
    }

    /// Returns how many leaks of this kind had this outcome.
    pub fn leaks_by(&self, kind: LeakKind, outcome: Outcome) -> u64 {
        let wanted = |leak: &&LeakCount| leak.kind == kind && leak.outcome == outcome;
        self.leaks.iter().filter(wanted).map(|leak| leak.count).sum()
    }

    /// Returns the passes of one kind.
    pub fn passes_of(&self, kind: PassKind) -> Option<&PassMetrics> {
        self.passes.iter().find(|pass| pass.kind == kind)
    }
}

/// How many rows ended for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndCount {
    /// The reason.
    pub reason: EndReason,
    /// The number of rows.
    pub count: u64,
}

/// How many leaks of one kind had one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakCount {
    /// The kind.
    pub kind: LeakKind,
    /// The outcome.
    pub outcome: Outcome,
    /// The number of leaks.
    pub count: u64,
}

/// The passes of one kind. Silence and failure are distinguished: with nothing wrong `completed` grows, a pass with problems
/// counts in `with_errors`, one that could not be made in `failed`; when none of them grows, no passes are being made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PassMetrics {
    /// Which check.
    pub kind: PassKind,
    /// Passes that went well.
    pub completed: u64,
    /// Passes that were made and recorded, but with errors.
    pub with_errors: u64,
    /// Passes that could not be made, or not be recorded.
    pub failed: u64,
    /// Time since the end of the last one that was recorded; `None` when there was none.
    pub since_last: Option<Duration>,
    /// The duration of each.
    pub duration: Histogram,
}

/// How many observations fell within fixed bounds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Observations up to each bound, those of smaller bounds included; the smallest bound first.
    pub buckets: Vec<(Duration, u64)>,
    /// The number of all observations, those above the last bound included.
    pub count: u64,
    /// The sum of all observations.
    pub sum: Duration,
}

/// What a ledger contains of all instances. Returned by [`Ledger::metrics`](crate::Ledger::metrics).
///
/// Nothing here is a counter: history is pruned, so each figure is the current state, or a count over `window`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LedgerMetrics {
    /// Live roots of all instances.
    pub executing_count: u64,
    /// Live rows in each live state, descendants included.
    pub live: Vec<(State, u64)>,
    /// Live rows whose instance is dead: the next orphan pass handles them.
    pub orphans: u64,
    /// Instances that have not stopped, or have left live rows, by state: alive, dead, or unknown.
    pub instances: InstanceCount,
    /// The time that the following figures cover, back from now.
    pub window: Duration,
    /// Rows that ended in it, descendants included, by reason.
    pub ends: Vec<EndCount>,
    /// Leaks that were found in it, by kind and outcome.
    pub leaks: Vec<LeakCount>,
    /// Resident bytes of these leaks when they were found.
    pub leaked_bytes: u64,
    /// Time from start until found, summed over these leaks.
    pub leaked_time: Duration,
    /// The passes of each kind that started in it, and the last one ever.
    pub passes: Vec<LedgerPasses>,
    /// Size of the ledger's file, bytes.
    pub size_bytes: u64,
    /// Size of its write-ahead log, bytes.
    pub wal_bytes: u64,
}

/// Instances by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCount {
    /// They hold their lock.
    pub alive: u64,
    /// Their lock is free and their process is gone.
    pub dead: u64,
    /// It cannot be determined from here.
    pub unknown: u64,
}

/// The passes of one kind that a ledger has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPasses {
    /// Which check.
    pub kind: PassKind,
    /// Passes that went well, within the window.
    pub completed: u64,
    /// Passes with errors, within the window.
    pub with_errors: u64,
    /// When the last one started, whenever that was; `None` when there was none.
    pub last_started_at: Option<SystemTime>,
    /// Whether the last one went well.
    pub last_went_well: Option<bool>,
}

/// The figures that come from the ledger's rows alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct LedgerCounts {
    pub(crate) live: Vec<(State, bool, u64)>,
    pub(crate) ends: Vec<EndCount>,
    pub(crate) leaks: Vec<LeakCount>,
    pub(crate) leaked_bytes: u64,
    pub(crate) leaked_time: Duration,
    pub(crate) passes: Vec<(PassKind, bool, u64)>,
}
