//! Collects metrics: the counts of this tracker, and the figures of a ledger for all instances.

use std::{path::Path, time::Duration};

use crate::{
    error::Result,
    model::{
        EndCount, EndReason, InstanceCount, LeakCount, LeakKind, LedgerCounts, LedgerMetrics,
        LedgerPasses, Metrics, Millis, Outcome, PassKind, PassRecord, State,
    },
    store::Store,
    sys::{Proc, current_pid_scope},
    tracker::{
        Ledger,
        core::Core,
        runtime::liveness::{Liveness, LivenessCheck},
    },
};

/// Returns the counts of a tracker since it was opened.
pub(in crate::tracker) fn of_tracker(core: &Core) -> Metrics {
    Metrics {
        executing_count: core.registry.len() as u64,
        unwatched: core.registry.unwatched() as u64,
        monitoring: core.passes.is_monitoring(),
        survivors: core.store.survivors().ok(),
        ..core.counters().read()
    }
}

impl Ledger {
    /// Returns the figures of the ledger, for all instances. Ends, leaks and passes cover the time
    /// `window` back from now.
    ///
    /// # Errors
    ///
    /// If the ledger or `/proc` cannot be read.
    pub fn metrics(&self, window: Duration) -> Result<LedgerMetrics> {
        let store = self.store();
        let counts = store.counts(Millis::now().minus(window))?;
        let last = store.last_passes()?;
        let (instances, orphans) = instances(store)?;
        let live = |wanted: State| {
            let rows = counts.live.iter().filter(|(state, ..)| *state == wanted);
            (wanted, rows.map(|(.., count)| count).sum())
        };
        let roots = counts.live.iter().filter(|(_, is_root, _)| *is_root);
        Ok(LedgerMetrics {
            executing_count: roots.map(|(.., count)| count).sum(),
            live: [State::Running, State::Ending, State::Survived].into_iter().map(live).collect(),
            orphans,
            instances,
            window,
            ends: every_reason(&counts.ends),
            leaks: every_leak(&counts.leaks),
            leaked_bytes: counts.leaked_bytes,
            leaked_time: counts.leaked_time,
            passes: PassKind::ALL.iter().map(|&kind| passes(kind, &counts, &last)).collect(),
            size_bytes: size(store.path()),
            wal_bytes: size(&store.beside("-wal")),
        })
    }
}

/// Returns the number of instances that may have left something, and of the live rows of those that
/// are dead.
fn instances(store: &Store) -> Result<(InstanceCount, u64)> {
    let (proc, here) = (Proc::open()?, current_pid_scope()?);
    let (mut count, mut orphans) = (InstanceCount::default(), 0);
    let all = store.instances_to_check()?;
    let liveness = LivenessCheck::new(store, &proc, here);
    for instance in &all {
        match liveness.of(instance, &all) {
            Liveness::Alive | Liveness::LockOutlives => count.alive += 1,
            Liveness::Unknown(_) => count.unknown += 1,
            Liveness::Dead(dead) => {
                count.dead += 1;
                orphans += store.live_of(dead.id)?.len() as u64;
            }
        }
    }
    Ok((count, orphans))
}

/// Adds the reasons that did not occur, with a count of 0: in metrics, a missing value would mean
/// an unknown one.
fn every_reason(found: &[EndCount]) -> Vec<EndCount> {
    let count = |&reason: &EndReason| {
        let found = found.iter().find(|end| end.reason == reason);
        EndCount { reason, count: found.map_or(0, |end| end.count) }
    };
    EndReason::ALL.iter().map(count).collect()
}

/// Does the same for leaks.
fn every_leak(found: &[LeakCount]) -> Vec<LeakCount> {
    let kinds = LeakKind::ALL.iter();
    let pairs = kinds.flat_map(|&kind| Outcome::ALL.iter().map(move |&outcome| (kind, outcome)));
    pairs
        .map(|(kind, outcome)| {
            let found = found.iter().find(|leak| leak.kind == kind && leak.outcome == outcome);
            LeakCount { kind, outcome, count: found.map_or(0, |leak| leak.count) }
        })
        .collect()
}

fn passes(kind: PassKind, counts: &LedgerCounts, last: &[PassRecord]) -> LedgerPasses {
    let count = |wanted: bool| {
        let found = counts.passes.iter().filter(|(of, well, _)| *of == kind && *well == wanted);
        found.map(|(.., count)| count).sum()
    };
    let last = last.iter().find(|pass| pass.kind == kind);
    LedgerPasses {
        kind,
        completed: count(true),
        with_errors: count(false),
        last_started_at: last.map(|pass| pass.started_at),
        last_went_well: last.map(|pass| pass.error.is_none()),
    }
}

/// Returns the size of a file; 0 if it does not exist, like a WAL without content. The file is only
/// stat'ed by name, never opened, since closing a descriptor of it would drop the locks that SQLite
/// holds.
fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}
