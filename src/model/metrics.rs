//! Figures: what a tracker has counted since it was opened, and what a ledger tells of itself.

use std::time::Duration;

use super::{EndReason, LeakKind, Millis, Outcome, PassKind, state::State};

/// What one tracker has counted since it was opened. Made by [`Tracker::metrics`](crate::Tracker::metrics).
///
/// Counts only grow. They are of this instance alone and are lost with it; what lasts is in the ledger, see
/// [`LedgerMetrics`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Roots that this instance answers for now: the seed's `executing_count`.
    pub executing_count: u64,
    /// Of these, that only the health pass covers, because half of the descriptor limit is used up.
    pub unwatched: u64,
    /// Whether the monitor thread runs.
    pub monitoring: bool,
    /// Programs that were started.
    pub spawns: u64,
    /// Programs that were asked for and not started, for whatever reason.
    pub spawn_failures: u64,
    /// Rows that this instance has ended, descendants included, for every reason.
    pub ends: Vec<EndCount>,
    /// Leaks that this instance has recorded, for every kind and outcome.
    ///
    /// One that survived counts as survived once, however often it is tried again, and once more when it is ended.
    pub leaks: Vec<LeakCount>,
    /// What could not be ended and is still there, of all instances. `None` when the ledger could not be read.
    pub survivors: Option<u64>,
    /// The passes of each kind.
    pub passes: Vec<PassMetrics>,
    /// How often the JSON export was replaced.
    pub export_writes: u64,
    /// How often that failed.
    pub export_failures: u64,
    /// From the first signal to a process until it was dead, for each that was ended.
    pub reap_latency: Histogram,
    /// From the death of a root until its end was in the ledger, for each that the monitor or a health pass noticed.
    ///
    /// The kernel does not tell when a process died, so this begins when it was last known to live: an upper bound.
    pub death_detection_latency: Histogram,
}

impl Metrics {
    /// How many rows this instance has ended for this reason.
    pub fn ends_by(&self, reason: EndReason) -> u64 {
        self.ends.iter().filter(|end| end.reason == reason).map(|end| end.count).sum()
    }

    /// How many leaks of this kind came to this.
    pub fn leaks_by(&self, kind: LeakKind, outcome: Outcome) -> u64 {
        let wanted = |leak: &&LeakCount| leak.kind == kind && leak.outcome == outcome;
        self.leaks.iter().filter(wanted).map(|leak| leak.count).sum()
    }

    /// The passes of one kind.
    pub fn passes_of(&self, kind: PassKind) -> Option<&PassMetrics> {
        self.passes.iter().find(|pass| pass.kind == kind)
    }
}

/// How many rows ended for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndCount {
    /// Why.
    pub reason: EndReason,
    /// How many.
    pub count: u64,
}

/// How many leaks of one kind came to one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakCount {
    /// What they were.
    pub kind: LeakKind,
    /// What became of them.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
}

/// The passes of one kind. Silence and failure are two things: with nothing wrong `completed` grows, a pass that met
/// trouble counts in `with_errors`, one that could not be made in `failed`; when none of them grows, nobody looks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PassMetrics {
    /// Which check.
    pub kind: PassKind,
    /// That went well.
    pub completed: u64,
    /// That were made and recorded, while something went wrong on the way.
    pub with_errors: u64,
    /// That could not be made, or not be recorded.
    pub failed: u64,
    /// Since the last one that was recorded ended; `None` when there was none.
    pub since_last: Option<Duration>,
    /// How long each took.
    pub duration: Histogram,
}

/// How many observations fell within fixed bounds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Observations up to each bound, those of smaller bounds included; the smallest bound first.
    pub buckets: Vec<(Duration, u64)>,
    /// All observations, those above the last bound included.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

/// What a ledger tells of all instances. Made by [`Ledger::metrics`](crate::Ledger::metrics).
///
/// Nothing here is a counter: history is pruned, so each is the state now, or a count over `window`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LedgerMetrics {
    /// Live roots of all instances.
    pub executing_count: u64,
    /// Live rows in each live state, descendants included.
    pub live: Vec<(State, u64)>,
    /// Live rows whose instance is dead: what the next orphan pass deals with.
    pub orphans: u64,
    /// Instances that have not stopped, or have left live rows, by what they are: alive, dead, or not to be told.
    pub instances: InstanceCount,
    /// The time that the following are counted over, back from now.
    pub window: Duration,
    /// Rows that ended in it, descendants included, for every reason.
    pub ends: Vec<EndCount>,
    /// Leaks that were found in it, for every kind and outcome.
    pub leaks: Vec<LeakCount>,
    /// Resident bytes of these when they were found.
    pub leaked_bytes: u64,
    /// From start until found, of these together.
    pub leaked_time: Duration,
    /// The passes of each kind that started in it, and the last one ever.
    pub passes: Vec<LedgerPasses>,
    /// Size of the ledger's file, bytes.
    pub size_bytes: u64,
    /// Size of its write-ahead log, bytes.
    pub wal_bytes: u64,
}

/// Instances by what can be told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCount {
    /// They hold their lock.
    pub alive: u64,
    /// Their lock is free and their process is gone.
    pub dead: u64,
    /// Not to be told from here.
    pub unknown: u64,
}

/// The passes of one kind that a ledger has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPasses {
    /// Which check.
    pub kind: PassKind,
    /// That went well, within the window.
    pub completed: u64,
    /// On which something went wrong, within the window.
    pub with_errors: u64,
    /// When the last one started, whenever that was; `None` when there was none.
    pub last_started_at: Option<Millis>,
    /// Whether that one went well.
    pub last_went_well: Option<bool>,
}

/// What the ledger's rows alone tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct LedgerCounts {
    pub(crate) live: Vec<(State, bool, u64)>,
    pub(crate) ends: Vec<EndCount>,
    pub(crate) leaks: Vec<LeakCount>,
    pub(crate) leaked_bytes: u64,
    pub(crate) leaked_time: Duration,
    pub(crate) passes: Vec<(PassKind, bool, u64)>,
}
