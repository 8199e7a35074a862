//! Deletes old history, and limits the size of the ledger.
//!
//! After each health pass the monitor checks whether there is anything to do: history older than is to be kept, a ledger larger
//! than its limit, or a WAL that a reader had held. If so, a thread does it, and ends: at most one at a time, in steps that
//! hold the write lock for a few milliseconds, with three times as long between them. A host that dies in between loses one
//! step at most; nothing refers to what is half done.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    model::Millis,
    policy::retention::{Pace, interval, next_cutoff},
    store::Housekeeper,
    tracker::{Builder, Tracker, core::Core, runtime::lock::lock},
};

/// How long history is kept by default: 90 days.
pub const DEFAULT_KEEP_HISTORY: Duration = Duration::from_hours(24 * 90);
/// An empty ledger with its indexes takes about 150 KiB.
pub(in crate::tracker) const SMALLEST_LIMIT: u64 = 1 << 20;
/// Steps between two checkpoints: what they write fits the WAL's limit.
const STEPS: u32 = 32;

/// What a prune did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Processes, passes and instances that were deleted; leaks go with their process and are not counted.
    pub rows: u64,
    /// Bytes by which the ledger has shrunk.
    pub bytes: u64,
}

/// Progress of a prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneProgress {
    /// Rows deleted so far.
    pub rows: u64,
    /// Rows that were old enough when it began; a few of them may have to stay.
    pub expected: u64,
}

impl Builder {
    /// Sets how long the history of ended processes is kept; 90 days by default, and forever with [`Duration::MAX`].
    ///
    /// The monitor deletes what is older, in steps of milliseconds beside the other work; without a monitor, call
    /// [`prune`](Tracker::prune). Running processes, survivors of an attempt to end them, the roots of both and the last pass
    /// of each kind stay; so do the last process, leak, pass and instance, since their row numbers would be reused. Where
    /// several instances share a ledger, the shortest time of any of them counts.
    pub fn keep_history(mut self, time: Duration) -> Self {
        self.options.keep_history = time;
        self
    }

    /// Limits the size of the ledger, in bytes, at least 1 MiB; by default it is as large as its history. The monitor deletes
    /// the oldest history, however young it is, until the rest fits; not counted are the WAL (a few MiB) and what stays in any
    /// case, as for [`keep_history`](Self::keep_history).
    pub fn limit_size(mut self, bytes: u64) -> Self {
        self.options.limit_size = Some(bytes);
        self
    }
}

impl Tracker {
    /// Deletes history that ended longer ago than `older_than`, and frees the space. `progress` is called after each small
    /// step; between steps other writers can write. Live rows, survivors, the last pass of each kind and the last row of each
    /// table stay: no row gets the number of a deleted one.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::time::Duration;
    ///
    /// let pruned = tracker.prune(Duration::from_hours(24 * 30), |_| {})?;
    /// println!("{} rows, {} bytes", pruned.rows, pruned.bytes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the ledger cannot be written; what was deleted until then stays deleted.
    pub fn prune(
        &self,
        older_than: Duration,
        mut progress: impl FnMut(PruneProgress),
    ) -> Result<Pruned> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let before = Millis::now().minus(older_than);
        let expected = core.store.count_before(before)?;
        let open = || !core.instance.is_closed();
        let mut work = Work::begin(core, &open)?;
        work.prune(before, &mut |rows| progress(PruneProgress { rows, expected }))?;
        work.finish()
    }
}

/// When the monitor checks the history again.
#[derive(Debug, Default)]
pub(in crate::tracker) struct House {
    next: Mutex<Option<Instant>>,
    busy: AtomicBool,
}

impl Core {
    /// Starts what there is to do, and never waits for it.
    pub(in crate::tracker) fn keep_house(self: &Arc<Self>) {
        let now = Instant::now();
        let is_time = lock(&self.house.next).is_none_or(|next| next <= now);
        if !(is_time || self.is_too_large() || self.store.wal_is_too_large())
            || self.house.busy.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let theirs = Arc::clone(self);
        let work = move || {
            crate::sys::leave_signals_to_the_host();
            if let Err(error) = theirs.shorten() {
                tracing::warn!("failed to limit the ledger: {error}; retrying");
            }
            // Counted from the end, so that a slow run is not followed immediately by the next.
            let next = Instant::now() + interval(theirs.options.keep_history);
            *lock(&theirs.house.next) = Some(next);
            theirs.house.busy.store(false, Ordering::Release);
        };
        match std::thread::Builder::new().name("procledger-house".into()).spawn(work) {
            Ok(handle) => {
                let mut threads = lock(&self.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(handle);
            }
            Err(error) => {
                tracing::warn!("failed to start the thread that limits the ledger: {error}");
                self.house.busy.store(false, Ordering::Release);
            }
        }
    }

    fn is_too_large(&self) -> bool {
        let used = |limit| self.store.size().is_ok_and(|size| size.used > limit);
        self.options.limit_size.is_some_and(used)
    }

    fn shorten(&self) -> Result<()> {
        let go_on = || self.monitoring.load(Ordering::Acquire);
        let before = Millis::now().minus(self.options.keep_history);
        let mut work = Work::begin(self, &go_on)?;
        work.prune(before, &mut |_| {})?;
        if let Some(limit) = self.options.limit_size {
            work.fit(limit)?;
        }
        let pruned = work.finish()?;
        if pruned.rows > 0 {
            tracing::debug!("deleted {} rows of history, {} bytes", pruned.rows, pruned.bytes);
        }
        Ok(())
    }
}

/// A prune in progress.
struct Work<'a> {
    house: Housekeeper,
    go_on: &'a dyn Fn() -> bool,
    /// Rows and pages have different costs.
    rows: Pace,
    pages: Pace,
    steps: u32,
    deleted: u64,
    bytes_before: u64,
}

impl<'a> Work<'a> {
    fn begin(core: &Core, go_on: &'a dyn Fn() -> bool) -> Result<Self> {
        Ok(Self {
            house: core.store.housekeeper()?,
            go_on,
            rows: Pace::default(),
            pages: Pace::default(),
            steps: 0,
            deleted: 0,
            bytes_before: core.store.size()?.total,
        })
    }

    /// Deletes rows that ended before this time; returns their number.
    fn prune(&mut self, before: Millis, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let at_first = self.deleted;
        while (self.go_on)() {
            let step = self.house.prune(before, self.rows.size())?;
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

    /// Deletes the oldest history until the rest fits.
    fn fit(&mut self, limit: u64) -> Result<()> {
        let mut last = None;
        while (self.go_on)() && self.house.store().size()?.used > limit {
            let now = Millis::now();
            let Some(oldest) = self.house.store().oldest()? else { return Ok(()) };
            let before = next_cutoff(oldest, last, now);
            if self.prune(before, &mut |_| {})? == 0 && before >= now {
                let used = self.house.store().size()?.used;
                tracing::warn!(
                    "the ledger holds {used} bytes, its limit is {limit}: the rest cannot be deleted"
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
            let step = self.house.free_pages(self.pages.size())?;
            if step.done == 0 {
                break;
            }
            let pause = self.pages.took(step.held);
            self.rest(pause)?;
        }
        self.house.checkpoint(self.deleted > 0)?;
        let total = self.house.store().size()?.total;
        Ok(Pruned { rows: self.deleted, bytes: self.bytes_before.saturating_sub(total) })
    }

    /// Leaves the ledger to other writers for a while. The WAL is written back now and then, so that a spawn does not have to
    /// do it.
    fn rest(&mut self, pause: Duration) -> Result<()> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) {
            match self.house.checkpoint(false) {
                Ok(_) => {}
                // Another process is just doing it.
                Err(error) if Error::is_busy(&error) => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(pause);
        Ok(())
    }
}
