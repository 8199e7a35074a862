//! Figures: the counts of a tracker since it was opened, and the content of a ledger.

use std::time::{Duration, SystemTime};

use super::{EndReason, LeakKind, Outcome, PassKind, State};

/// The counts of one tracker since it was opened. Returned by
/// [`Tracker::metrics`](crate::Tracker::metrics).
///
/// Counts only grow. They cover this instance alone and are lost when it ends; lasting data is in
/// the ledger, see [`LedgerMetrics`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// The number of roots that this instance is responsible for now: the former implementation's
    /// `executing_count`.
    pub executing_count: u64,
    /// The number of those that only the health pass covers, because half of the descriptor limit
    /// is used up.
    pub unwatched: u64,
    /// Whether the monitor thread runs.
    pub monitoring: bool,
    /// The number of programs that were started.
    pub spawns: u64,
    /// The number of programs that were requested but not started, for whatever reason.
    pub spawn_failures: u64,
    /// Rows that this instance has ended, descendants included, by reason.
    pub ends: Vec<EndCount>,
    /// Leaks that this instance has recorded, by kind and outcome.
    ///
    /// A survivor counts once as survived, however often ending it is tried again, and once more
    /// when it is ended.
    pub leaks: Vec<LeakCount>,
    /// Processes of all instances that could not be ended and still exist. `None` if the ledger
    /// could not be read.
    pub survivors: Option<u64>,
    /// The passes of each kind.
    pub passes: Vec<PassMetrics>,
    /// How often the JSON export was replaced.
    pub export_writes: u64,
    /// How often replacing it failed.
    pub export_failures: u64,
    /// The time from the first signal to a process until its death, for each process that was
    /// ended.
    pub reap_latency: Histogram,
    /// The time from the death of a root until its end was in the ledger, for each death that the
    /// monitor or a health pass detected.
    ///
    /// The kernel does not report when a process died, so this begins when it was last known to be
    /// alive: an upper bound.
    pub death_detection_latency: Histogram,
}

impl Metrics {
    /// Returns how many rows this instance ended for this reason.
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

/// The passes of one kind. Silence and failure can be distinguished: a pass without errors counts
/// in `completed`, a pass with errors in `with_errors`, and a pass that could not run in `failed`.
/// If none of them grows, no passes are running.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PassMetrics {
    /// The kind of check.
    pub kind: PassKind,
    /// Passes that went well.
    pub completed: u64,
    /// Passes that ran and were recorded, but had errors.
    pub with_errors: u64,
    /// Passes that could not run, or could not be recorded.
    pub failed: u64,
    /// Time since the end of the last recorded pass; `None` if there was none.
    pub since_last: Option<Duration>,
    /// The duration of each.
    pub duration: Histogram,
}

/// The number of observations within each of some fixed bounds.
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

/// The figures of a ledger, for all its instances. Returned by
/// [`Ledger::metrics`](crate::Ledger::metrics).
///
/// Nothing here is a counter: history is pruned, so each figure is the current state, or a count
/// over `window`.
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
    /// Rows that ended in that time, descendants included, by reason.
    pub ends: Vec<EndCount>,
    /// Leaks that were found in that time, by kind and outcome.
    pub leaks: Vec<LeakCount>,
    /// Resident bytes of these leaks at the time when they were found.
    pub leaked_bytes: u64,
    /// The time from the start of each of these leaks until it was found, summed up.
    pub leaked_time: Duration,
    /// The passes of each kind that started in that time, and the last pass ever.
    pub passes: Vec<LedgerPasses>,
    /// Size of the ledger file, in bytes.
    pub size_bytes: u64,
    /// Size of its write-ahead log, in bytes.
    pub wal_bytes: u64,
}

/// Instances by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCount {
    /// Instances that hold their lock.
    pub alive: u64,
    /// Instances whose lock is free and whose process is gone.
    pub dead: u64,
    /// Instances whose state cannot be determined from here.
    pub unknown: u64,
}

/// The passes of one kind that a ledger has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPasses {
    /// The kind of check.
    pub kind: PassKind,
    /// Passes that went well, within the window.
    pub completed: u64,
    /// Passes with errors, within the window.
    pub with_errors: u64,
    /// When the last one started, even before the window; `None` if there was none.
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
