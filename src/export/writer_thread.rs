//! The thread that keeps the file in step with the ledger.

use std::{
    error::Error as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    json_file::{Target, Written},
    list::EntryList,
    lock::Lock,
};
use crate::{
    error::{Error, Kind, Result},
    metrics::Counters,
    model::ExportUpdate,
};

/// A change is written at once, but after a write the next change waits this many times as long as
/// the write took: if tasks start and end all the time, the export is busy for a fifth of the time.
const REST: u32 = 4;
/// The minimum wait: a task rarely starts alone.
const REST_MIN: Duration = Duration::from_millis(1);
/// The maximum wait: the file follows within 50 ms.
const REST_MAX: Duration = Duration::from_millis(20);

/// The first wait after a failed write, and the minimum time between a failure and a write for a
/// new change: a full disk must not lead to a busy loop, yet once there is space again a change
/// must be visible within 50 ms.
const RETRY_FIRST: Duration = Duration::from_millis(20);

/// Longest wait after a failed write when nothing changes.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Minimum time between two attempts to take the lock from the current writer.
const TAKEOVER: Duration = Duration::from_secs(1);

/// The number of distinct errors that are remembered as logged until a write succeeds.
const COMPLAINTS_MAX: usize = 16;

pub(super) type Source = Box<dyn FnMut() -> Result<ExportUpdate> + Send>;

/// The data that the thread returns when it ends.
pub(super) struct Held {
    target: Target,
    lock: Option<Lock>,
    written: Option<Written>,
}

impl Held {
    pub(super) fn remove(self) -> Result<()> {
        // Without the lock, or if the lock file lost its name, another instance is responsible for
        // the export.
        let Some(lock) = self.lock.filter(Lock::is_named) else { return Ok(()) };
        self.target.act(|| {
            let removed =
                self.written.map_or(Ok(()), |written| self.target.remove(&written, lock.export()));
            removed.and(lock.remove())
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Stop,
    Finish,
}

/// The data that the handle and the thread share. The mutex is never held across I/O, the source or
/// a log line.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) wake: Condvar,
    pub(super) done: Condvar,
}

pub(super) struct State {
    /// Number of changes so far; the first is the start itself.
    pub(super) requested: u64,
    /// How many of them are in the file, or left to another instance.
    pub(super) settled: u64,
    pub(super) writes: u64,
    pub(super) passive: bool,
    pub(super) last_error: Option<String>,
    pub(super) ending: Option<Ending>,
}

impl Shared {
    pub(super) fn new(passive: bool) -> Self {
        let state = State {
            requested: 1,
            settled: u64::from(passive),
            writes: 0,
            passive,
            last_error: None,
            ending: None,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), done: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a write is due, or until the thread is to end.
    fn wait(&self, schedule: &WriteSchedule) -> Option<Ending> {
        let mut state = self.lock();
        loop {
            if state.ending.is_some() {
                return state.ending;
            }
            let due = schedule.due(&state);
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match wait {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(wait) => {
                    let woken = self.wake.wait_timeout(state, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn settle(&self, seen: u64, result: &Result<Attempt, String>) {
        let mut state = self.lock();
        match result {
            Ok(attempt) => {
                state.settled = seen;
                state.passive = *attempt == Attempt::Passive;
                state.writes += u64::from(*attempt == Attempt::Written);
                state.last_error = None;
            }
            Err(message) => state.last_error = Some(message.clone()),
        }
        drop(state);
        self.done.notify_all();
    }
}

/// When the next attempt may be made.
struct WriteSchedule {
    /// The last change that an attempt covered.
    seen: u64,
    /// Earliest time for a new change.
    change_at: Instant,
    /// Earliest time for a retry after a failure.
    retry_at: Instant,
    backoff: Duration,
}

impl WriteSchedule {
    fn due(&self, state: &State) -> Option<Instant> {
        if state.requested > self.seen {
            Some(self.change_at)
        } else {
            (state.settled < state.requested).then_some(self.retry_at)
        }
    }

    fn follow(&mut self, result: &Result<Attempt, String>, took: Duration) {
        let now = Instant::now();
        self.change_at = match result {
            Ok(Attempt::Passive) => now + TAKEOVER,
            Ok(_) => now + (took * REST).clamp(REST_MIN, REST_MAX),
            Err(_) => now + RETRY_FIRST,
        };
        self.retry_at = now + self.backoff;
        self.backoff = if result.is_ok() {
            RETRY_FIRST
        } else {
            RETRY_MAX.min(self.backoff.saturating_mul(2))
        };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Written,
    Unchanged,
    Passive,
}

/// The state of the thread.
pub(super) struct Writer {
    held: Held,
    source: Source,
    list: EntryList,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    schedule: WriteSchedule,
    /// Whether leftovers were removed since the lock was taken.
    swept: bool,
    logged_errors: LoggedErrors,
}

impl Writer {
    pub(super) fn new(
        target: Target,
        lock: Option<Lock>,
        source: Source,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
    ) -> Self {
        let now = Instant::now();
        let passive = lock.is_none();
        let schedule = WriteSchedule {
            seen: u64::from(passive),
            change_at: if passive { now + TAKEOVER } else { now },
            retry_at: now,
            backoff: RETRY_FIRST,
        };
        let held = Held { target, lock, written: None };
        Self {
            held,
            source,
            list: EntryList::default(),
            shared,
            counters,
            schedule,
            swept: false,
            logged_errors: LoggedErrors::default(),
        }
    }

    pub(super) fn run(mut self) -> Held {
        let ending = loop {
            if let Some(ending) = self.shared.wait(&self.schedule) {
                break ending;
            }
            self.step();
        };
        let behind = {
            let state = self.shared.lock();
            state.settled < state.requested
        };
        // A list that exists before our first write is that of an instance that crashed. Writing it
        // makes it ours, so that it is removed.
        let inherited = self.held.written.is_none() && self.held.target.is_there();
        let wanted = (ending == Ending::Stop && behind) || inherited;
        // Only if this instance is the writer: an instance that ends does not take over.
        if wanted && self.held.lock.is_some() {
            self.step();
        }
        self.held
    }

    fn step(&mut self) {
        let began = Instant::now();
        self.schedule.seen = self.shared.lock().requested;
        let result = self.attempt().map_err(|error| with_causes(&error));
        match result {
            Ok(Attempt::Written) => self.counters.export_written(),
            Ok(Attempt::Unchanged | Attempt::Passive) => {}
            Err(_) => self.counters.export_failed(),
        }
        self.shared.settle(self.schedule.seen, &result);
        self.schedule.follow(&result, began.elapsed());
        self.log(&result);
        // Done last, since a folder such as /tmp may contain very many names.
        if self.held.lock.is_some() && !self.swept {
            self.held.target.remove_leftovers();
            self.swept = true;
        }
    }

    fn attempt(&mut self) -> Result<Attempt> {
        if !self.hold_lock()? {
            return Ok(Attempt::Passive);
        }
        let update = self.ask_source()?;
        self.list.apply(update);
        let text = self.list.to_json();
        let target = &self.held.target;
        if self.held.written.as_ref().is_some_and(|written| written.holds(&text, &target.path)) {
            return Ok(Attempt::Unchanged);
        }
        let locked = self.held.lock.as_ref().and_then(Lock::export);
        self.held.written = Some(target.replace(text, locked)?);
        Ok(Attempt::Written)
    }

    /// Reports whether we may write; takes the lock if it is free.
    fn hold_lock(&mut self) -> Result<bool> {
        if self.held.lock.as_ref().is_some_and(Lock::is_named) {
            return Ok(true);
        }
        // Our lock file lost its name: release it before taking the file that has it now.
        self.held.lock = None;
        self.swept = false;
        let target = &self.held.target;
        self.held.lock = target.act(|| target.lock())?;
        Ok(self.held.lock.is_some())
    }

    /// Reads what has changed from the source. A source that panics is handled like any other
    /// error: the thread goes on.
    fn ask_source(&mut self) -> Result<ExportUpdate> {
        catch_unwind(AssertUnwindSafe(|| (self.source)())).unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Other,
                "failed to read the list for the export: reading it panicked",
            ))
        })
    }

    fn log(&mut self, result: &Result<Attempt, String>) {
        match result {
            Ok(_) => self.logged_errors.settle(),
            Err(message) if self.logged_errors.is_new(message) => tracing::warn!("{message}"),
            Err(_) => {}
        }
    }
}

/// The errors that were logged since the last success. A persistent error is logged once.
#[derive(Default)]
pub(super) struct LoggedErrors(Vec<String>);

impl LoggedErrors {
    /// Reports whether this was not logged yet, and marks it as logged.
    pub(super) fn is_new(&mut self, message: &str) -> bool {
        if self.0.iter().any(|known| known == message) {
            return false;
        }
        if self.0.len() == COMPLAINTS_MAX {
            self.0.remove(0);
        }
        self.0.push(message.to_owned());
        true
    }

    /// Resets after a success: the next error is logged again.
    pub(super) fn settle(&mut self) {
        self.0.clear();
    }
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
