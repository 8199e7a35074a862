//! The counters of one tracker.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    facade,
    families::{
        DETECTION, ENDS, EXECUTING, EXPORT_FAILURES, EXPORT_WRITES, LAST_PASS, LEAKS,
        PASS_DURATION, PASSES, REAP_LATENCY, SPAWN_FAILURES, SPAWNS,
    },
    latency::Latency,
};
use crate::model::{
    EndCount, EndReason, LeakCount, LeakKind, Metrics, Outcome, PassKind, PassMetrics, PassRecord,
};

const REASONS: usize = EndReason::ALL.len();
const KINDS: usize = LeakKind::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();
const PASS_KINDS: usize = PassKind::ALL.len();

/// The counts of one tracker since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    spawns: AtomicU64,
    spawn_failures: AtomicU64,
    ends: [AtomicU64; REASONS],
    leaks: [[AtomicU64; OUTCOMES]; KINDS],
    passes: [Passes; PASS_KINDS],
    export_writes: AtomicU64,
    export_failures: AtomicU64,
    reap: Latency,
    detection: Latency,
}

/// The passes of one kind.
#[derive(Debug, Default)]
struct Passes {
    completed: AtomicU64,
    with_errors: AtomicU64,
    failed: AtomicU64,
    /// The origin of `last_us`: the end of the first pass.
    first: OnceLock<Instant>,
    /// When the last one ended. Not by the wall clock: setting the clock must not look as if no
    /// pass had run.
    last_us: AtomicU64,
    last_took_us: AtomicU64,
    duration: Latency,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Counters {
    /// Describes the figures to the facade's recorder, which has been installed by now if the
    /// program uses one.
    pub(crate) fn describe() {
        facade::describe();
    }

    pub(crate) fn spawned(&self) {
        add(&self.spawns, 1);
        facade::count(SPAWNS, [], 1);
    }

    pub(crate) fn not_spawned(&self) {
        add(&self.spawn_failures, 1);
        facade::count(SPAWN_FAILURES, [], 1);
    }

    /// Reports to the facade that the number of roots has changed; the number itself is kept by the
    /// owner of the roots.
    pub(crate) fn executing(by: f64) {
        facade::change(EXECUTING, by);
    }

    pub(crate) fn ended(&self, reason: EndReason, rows: u64) {
        if rows > 0 {
            add(&self.ends[reason as usize], rows);
            facade::count(ENDS, [("reason", reason.as_str())], rows);
        }
    }

    pub(crate) fn leaked(&self, kind: LeakKind, outcome: Outcome) {
        add(&self.leaks[kind as usize][outcome as usize], 1);
        facade::count(LEAKS, [("kind", kind.as_str()), ("outcome", outcome.as_str())], 1);
    }

    /// Counts a pass that was recorded in the ledger.
    pub(crate) fn passed(&self, pass: &PassRecord) {
        let passes = &self.passes[pass.kind as usize];
        let (counter, result) = if pass.error.is_none() {
            (&passes.completed, COMPLETED)
        } else {
            (&passes.with_errors, WITH_ERRORS)
        };
        let first = *passes.first.get_or_init(Instant::now);
        passes.last_us.store(micros(first.elapsed()), Ordering::Relaxed);
        passes.last_took_us.store(micros(pass.duration), Ordering::Relaxed);
        passes.duration.observe(pass.duration);
        add(counter, 1);
        let kind = ("kind", pass.kind.as_str());
        facade::count(PASSES, [kind, ("result", result)], 1);
        facade::observe(PASS_DURATION, [kind], pass.duration);
        facade::set(LAST_PASS, [kind], super::text_format::unix_seconds(SystemTime::now()));
    }

    /// Counts a pass that could not run or could not be recorded.
    pub(crate) fn pass_failed(&self, kind: PassKind) {
        add(&self.passes[kind as usize].failed, 1);
        facade::count(PASSES, [("kind", kind.as_str()), ("result", FAILED)], 1);
    }

    pub(crate) fn export_written(&self) {
        add(&self.export_writes, 1);
        facade::count(EXPORT_WRITES, [], 1);
    }

    pub(crate) fn export_failed(&self) {
        add(&self.export_failures, 1);
        facade::count(EXPORT_FAILURES, [], 1);
    }

    /// Records the time from the first signal until the process was dead.
    pub(crate) fn reaped(&self, after: Duration) {
        self.reap.observe(after);
        facade::observe(REAP_LATENCY, [], after);
    }

    /// Records the time from when a root was last known to be alive until its end was recorded.
    pub(crate) fn detected(&self, after: Duration) {
        self.detection.observe(after);
        facade::observe(DETECTION, [], after);
    }

    /// Returns the time since the last pass of a kind began: processes that it observed alive were
    /// alive then.
    pub(crate) fn since_last_began(&self, kind: PassKind) -> Option<Duration> {
        let passes = &self.passes[kind as usize];
        let took = Duration::from_micros(read(&passes.last_took_us));
        passes.since_last().map(|since| since + took)
    }

    /// Returns the counts; figures that do not come from counters are left empty.
    pub(crate) fn read(&self) -> Metrics {
        Metrics {
            executing_count: 0,
            unwatched: 0,
            monitoring: false,
            survivors: None,
            spawns: read(&self.spawns),
            spawn_failures: read(&self.spawn_failures),
            ends: self.read_ends(),
            leaks: self.read_leaks(),
            passes: PassKind::ALL
                .iter()
                .map(|&kind| self.passes[kind as usize].read(kind))
                .collect(),
            export_writes: read(&self.export_writes),
            export_failures: read(&self.export_failures),
            reap_latency: self.reap.read(),
            death_detection_latency: self.detection.read(),
        }
    }

    fn read_ends(&self) -> Vec<EndCount> {
        let count = |&reason| EndCount { reason, count: read(&self.ends[reason as usize]) };
        EndReason::ALL.iter().map(count).collect()
    }

    fn read_leaks(&self) -> Vec<LeakCount> {
        let mut leaks = Vec::with_capacity(KINDS * OUTCOMES);
        for &kind in LeakKind::ALL {
            for &outcome in Outcome::ALL {
                let count = read(&self.leaks[kind as usize][outcome as usize]);
                leaks.push(LeakCount { kind, outcome, count });
            }
        }
        leaks
    }
}

/// Results of passes, as labels.
pub(super) const COMPLETED: &str = "completed";
pub(super) const WITH_ERRORS: &str = "with_errors";
pub(super) const FAILED: &str = "failed";

impl Passes {
    fn since_last(&self) -> Option<Duration> {
        let last = Duration::from_micros(read(&self.last_us));
        self.first.get().map(|first| first.elapsed().saturating_sub(last))
    }

    fn read(&self, kind: PassKind) -> PassMetrics {
        PassMetrics {
            kind,
            completed: read(&self.completed),
            with_errors: read(&self.with_errors),
            failed: read(&self.failed),
            since_last: self.since_last(),
            duration: self.duration.read(),
        }
    }
}
