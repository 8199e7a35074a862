//! [`Subscription`]: the events of a ledger as they are recorded.
//!
//! The ledger itself is the queue: a subscriber keeps its position, records that were read but not
//! returned yet, at most some thousand, and the numbers of the open rows. No writer knows of it or
//! waits for it, and a subscriber that does not read costs nothing.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    ledger::Ledger,
    writes::{SETTLES, UNWATCHED, WATCHED, Writes},
};
use crate::{
    error::{Error, Result},
    model::LedgerEvent,
    store::{Position, Store},
    sys::poll::poll_within,
    tracker::core::Core,
};

/// Ends, survivors and leaks, from the call of [`Tracker::subscribe`](crate::Tracker::subscribe) or
/// [`Ledger::subscribe`] on, whichever instance or pass recorded them.
///
/// As an iterator it waits for the next event. Each event is returned once, in the order of the
/// ledger's transactions. Events that were committed since the last check are returned as ends,
/// then survivors, then leaks, each by row number. A commit is detected by inotify(7) about 5 ms
/// later; without inotify, within 100 ms.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
/// use procledger::{ExitStatus, Job, LedgerEvent};
///
/// let mut events = tracker.subscribe()?;
/// tracker.spawn(Job::new("task-42", "false"))?;
/// match events.next().expect("the tracker is open")? {
///     LedgerEvent::Ended(row) => {
///         assert_eq!(row.life.end().unwrap().status, ExitStatus::Exited(1));
///     }
///     other => panic!("{other:?}"),
/// }
/// tracker.shutdown()?;
/// assert!(events.next().is_none(), "nothing else has happened");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    /// The tracker with which it ends.
    tracker: Option<Arc<Core>>,
    position: Position,
    /// Events that were read and not returned yet.
    events: VecDeque<LedgerEvent>,
    writes: Option<Writes>,
    /// How long the last query of the ledger took, which grows with the number of live rows.
    took: Duration,
}

/// Queries of a busy ledger take at most one part in this many of the time.
const SHARE: u32 = 10;

/// The result of polling the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Poll {
    Events,
    Nothing,
    /// There is no event, and the tracker was shut down before.
    End,
}

impl Ledger {
    /// Subscribes to the events that this ledger records from now on. The subscription never ends
    /// by itself.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn subscribe(&self) -> Result<Subscription> {
        Subscription::new(self.store().clone(), None)
    }
}

impl Subscription {
    pub(in crate::tracker) fn new(store: Store, tracker: Option<Arc<Core>>) -> Result<Self> {
        // Created before the position is read, so that no write is missed.
        let writes = Writes::of(&store);
        let position = store.position()?;
        Ok(Self { store, tracker, position, events: VecDeque::new(), writes, took: Duration::ZERO })
    }

    /// Returns the next event, without waiting; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read. The next call retries, and nothing is lost.
    pub fn try_next(&mut self) -> Result<Option<LedgerEvent>> {
        self.poll()?;
        Ok(self.events.pop_front())
    }

    /// Waits for the next event, at most `limit`; `None` if there was none, or if the tracker was
    /// shut down.
    ///
    /// # Errors
    ///
    /// As for [`try_next`](Self::try_next).
    pub fn next_within(&mut self, limit: Duration) -> Result<Option<LedgerEvent>> {
        let deadline = Instant::now().checked_add(limit);
        loop {
            if self.poll()? != Poll::Nothing {
                return Ok(self.events.pop_front());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.wait(left.unwrap_or(WATCHED))?;
        }
    }

    /// Reads new events, unless events that were read before are left.
    pub(in crate::tracker) fn poll(&mut self) -> Result<Poll> {
        if self.events.is_empty() {
            // Checked before the ledger is read, since a shutdown records everything before it is
            // complete.
            let is_over = self.tracker.as_ref().is_some_and(|core| core.instance.is_shut_down());
            let began = Instant::now();
            self.events = self.store.changes(&mut self.position)?.into();
            self.took = began.elapsed();
            if self.events.is_empty() {
                return Ok(if is_over { Poll::End } else { Poll::Nothing });
            }
        }
        Ok(Poll::Events)
    }

    /// Waits until the ledger is written, at most `limit`, or until it is time to check again.
    fn wait(&self, limit: Duration) -> Result<()> {
        let Some(writes) = &self.writes else {
            std::thread::sleep(UNWATCHED.min(limit));
            return Ok(());
        };
        let deadline = Instant::now() + limit.min(WATCHED);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(writes, PollFlags::IN)];
            let ready = poll_within(&mut fds, Some(left))
                .map_err(|error| Error::os("failed to wait for a write to the ledger", error))?;
            if ready == 0 {
                return Ok(());
            }
            if writes.take() {
                std::thread::sleep(self.pause().min(left));
                return Ok(());
            }
        }
    }

    /// Returns how long to wait after a write before the next query.
    pub(in crate::tracker) fn pause(&self) -> Duration {
        SETTLES.max(self.took * SHARE)
    }
}

#[cfg(feature = "tokio")]
impl Subscription {
    pub(in crate::tracker) fn pop(&mut self) -> Option<LedgerEvent> {
        self.events.pop_front()
    }

    /// Removes and returns the detector of writes, for a waiter of another kind.
    pub(in crate::tracker) fn take_writes(&mut self) -> Option<Writes> {
        self.writes.take()
    }
}

impl Iterator for Subscription {
    type Item = Result<LedgerEvent>;

    /// Waits for the next event; `None` once the tracker is shut down and everything was returned.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.poll() {
                Ok(Poll::Events) => return self.events.pop_front().map(Ok),
                Ok(Poll::End) => return None,
                Ok(Poll::Nothing) => {}
                Err(error) => return Some(Err(error)),
            }
            if let Err(error) = self.wait(WATCHED) {
                return Some(Err(error));
            }
        }
    }
}
