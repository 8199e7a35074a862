//! Deletes old history, and limits the size of the ledger.
//!
//! After each health pass the monitor checks whether there is anything to do: history that is too
//! old, a ledger larger than its limit, or a WAL that a reader had held. If so, a thread does the
//! work and exits. There is at most one such thread; it works in steps that hold the write lock for
//! a few milliseconds, with pauses three times as long. A host that dies in between loses one step
//! at most, and no incomplete state is left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::pass::Pass;
use crate::{
    error::{Error, Result},
    model::Millis,
    policy::retention::{BatchSize, interval, next_cutoff},
    store::{MaintenanceConnection, Unshipped},
    tracker::core::Core,
};

/// The default time for which history is kept: 90 days.
pub const DEFAULT_KEEP_HISTORY: Duration = Duration::from_hours(24 * 90);
/// The smallest size limit; an empty ledger with its indexes takes about 150 KiB.
pub(in crate::tracker) const SMALLEST_LIMIT: u64 = 1 << 20;
/// Number of steps between two checkpoints, so that their writes fit the limit of the WAL.
const STEPS: u32 = 32;

/// The result of a prune.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The number of processes, passes and instances that were deleted; leaks are deleted with
    /// their process and do not count.
    pub rows: u64,
    /// The number of bytes by which the ledger has shrunk.
    pub bytes: u64,
}

/// Progress of a prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneProgress {
    /// The number of rows deleted so far.
    pub rows: u64,
    /// The number of rows that were old enough at the start; a few of them may have to stay.
    pub expected: u64,
}

/// Deletes old history; see [`Tracker::prune`](crate::Tracker::prune).
pub(in crate::tracker) fn prune(
    core: &Core,
    older_than: Duration,
    progress: &mut dyn FnMut(PruneProgress),
) -> Result<Pruned> {
    let before = Millis::now().minus(older_than);
    let expected = core.store.count_before(before)?;
    let open = || !core.instance.is_closed();
    let mut work = PruneRun::begin(core, &open)?;
    let mut report = |rows| progress(PruneProgress { rows, expected });
    work.prune(before, Unshipped::Keep, &mut report)?;
    work.finish()
}

/// Delay of the first check of the history. Hosts that live for less than an interval must keep the
/// ledger small as well, but at the start a host has more urgent work.
const FIRST_CHECK: Duration = Duration::from_secs(1);

/// The first check of the history; later checks follow the health passes.
pub(super) struct FirstMaintenance {
    due: Option<Instant>,
}

impl FirstMaintenance {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: Some(now + FIRST_CHECK) }
    }
}

impl Pass for FirstMaintenance {
    fn due(&self, _core: &Core) -> Option<Instant> {
        self.due
    }

    fn run_once(&mut self, core: &Arc<Core>, _now: Instant) {
        self.due = None;
        maintain(core);
    }
}

/// Starts the maintenance that is due, without waiting for it.
pub(in crate::tracker) fn maintain(core: &Arc<Core>) {
    let is_needed =
        core.maintenance.is_time() || is_too_large(core) || core.store.wal_is_too_large();
    if !is_needed || !core.maintenance.begin() {
        return;
    }
    let theirs = Arc::clone(core);
    let work = move || {
        if let Err(error) = shorten(&theirs) {
            tracing::warn!("failed to limit the ledger: {error}; retrying");
        }
        // Counted from the end, so that a slow run is not followed immediately by the next.
        theirs.maintenance.end(Some(Instant::now() + interval(theirs.options.keep_history)));
    };
    if let Err(error) = core.threads.start("procledger-house", work) {
        tracing::warn!("failed to start the thread that limits the ledger: {error}");
        core.maintenance.end(None);
    }
}

fn is_too_large(core: &Core) -> bool {
    let used = |limit| core.store.size().is_ok_and(|size| size.used > limit);
    core.options.limit_size.is_some_and(used)
}

fn shorten(core: &Core) -> Result<()> {
    let go_on = || core.passes.is_monitoring();
    let before = Millis::now().minus(core.options.keep_history);
    let mut work = PruneRun::begin(core, &go_on)?;
    work.prune(before, Unshipped::Keep, &mut |_| {})?;
    if let Some(limit) = core.options.limit_size {
        work.fit(limit)?;
    }
    let pruned = work.finish()?;
    if pruned.rows > 0 {
        tracing::debug!("deleted {} rows of history, {} bytes", pruned.rows, pruned.bytes);
    }
    Ok(())
}

/// A prune in progress.
struct PruneRun<'a> {
    connection: MaintenanceConnection,
    go_on: &'a dyn Fn() -> bool,
    /// Rows and pages have different costs.
    rows: BatchSize,
    pages: BatchSize,
    steps: u32,
    deleted: u64,
    bytes_before: u64,
}

impl<'a> PruneRun<'a> {
    fn begin(core: &Core, go_on: &'a dyn Fn() -> bool) -> Result<Self> {
        Ok(Self {
            connection: core.store.maintenance_connection()?,
            go_on,
            rows: BatchSize::default(),
            pages: BatchSize::default(),
            steps: 0,
            deleted: 0,
            bytes_before: core.store.size()?.total,
        })
    }

    /// Deletes rows that ended before this time; returns the number of rows.
    fn prune(
        &mut self,
        before: Millis,
        unshipped: Unshipped,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let at_first = self.deleted;
        while (self.go_on)() {
            let step = self.connection.prune(before, self.rows.size(), unshipped)?;
            if step.done == 0 {
                break;
            }
            self.deleted += step.done;
            progress(self.deleted);
            let pause = self.rows.took(step.held);
            self.rest(pause)?;
        }
        Ok(self.deleted - at_first)
    }

    /// Deletes the oldest history until the rest fits, whether or not a fleet has it: an outage of
    /// the fleet must not fill the disks of its hosts.
    fn fit(&mut self, limit: u64) -> Result<()> {
        let mut last = None;
        while (self.go_on)() && self.connection.store().size()?.used > limit {
            let now = Millis::now();
            let Some(oldest) = self.connection.store().oldest()? else { return Ok(()) };
            let before = next_cutoff(oldest, last, now);
            if self.prune(before, Unshipped::Delete, &mut |_| {})? == 0 && before >= now {
                let used = self.connection.store().size()?.used;
                tracing::warn!(
                    "the ledger has {used} bytes, its limit is {limit}: the rest cannot be deleted"
                );
                return Ok(());
            }
            last = Some(before);
        }
        Ok(())
    }

    /// Frees the space.
    fn finish(mut self) -> Result<Pruned> {
        while (self.go_on)() {
            let step = self.connection.free_pages(self.pages.size())?;
            if step.done == 0 {
                break;
            }
            let pause = self.pages.took(step.held);
            self.rest(pause)?;
        }
        self.connection.checkpoint(self.deleted > 0)?;
        let total = self.connection.store().size()?.total;
        Ok(Pruned { rows: self.deleted, bytes: self.bytes_before.saturating_sub(total) })
    }

    /// Leaves the ledger to other writers for a while. Writes the WAL back from time to time, so
    /// that a spawn does not have to.
    fn rest(&mut self, pause: Duration) -> Result<()> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) {
            match self.connection.checkpoint(false) {
                Ok(_) => {}
                // Another process is writing it back.
                Err(error) if Error::is_busy(&error) => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(pause);
        Ok(())
    }
}
