//! [`AsyncSubscription`]: the events of a ledger, as a stream.

use std::sync::{Arc, Mutex};

use super::{AsyncTracker, aside};
use crate::{
    error::Result,
    model::LedgerEvent,
    sys::readable,
    tracker::{
        Tracker,
        inspect::{
            subscription::{Poll, Subscription},
            writes::{UNWATCHED, WATCHED, Writes},
        },
        runtime::lock::lock,
    },
};

/// Ends, survivors and leaks as they are recorded: a [`Subscription`] for use in a tokio runtime.
///
/// ```
/// use procledger::{Job, LedgerEvent, Tracker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// let tracker = Tracker::builder(path).open()?.into_async();
/// let mut events = tracker.subscribe().await?;
/// tracker.spawn(Job::new("task-42", "true")).await?;
/// let event = events.next().await.expect("the tracker is open")?;
/// assert!(matches!(event, LedgerEvent::Ended(row) if row.life.end().unwrap().status.success()));
/// tracker.shutdown().await?;
/// assert!(events.next().await.is_none());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AsyncSubscription {
    /// Shared with a query of the ledger that is in progress: if its future is dropped, the query
    /// is completed, and its result is kept.
    inner: Arc<Mutex<Subscription>>,
    writes: Option<Writes>,
}

impl AsyncTracker {
    /// Subscribes to the events that the ledger records from now on, like
    /// [`Tracker::subscribe`](crate::Tracker::subscribe).
    ///
    /// # Errors
    ///
    /// As for [`Tracker::subscribe`](crate::Tracker::subscribe).
    pub async fn subscribe(&self) -> Result<AsyncSubscription> {
        let mut inner = self.run(Tracker::subscribe).await?;
        let writes = inner.take_writes();
        Ok(AsyncSubscription { inner: Arc::new(Mutex::new(inner)), writes })
    }
}

impl AsyncSubscription {
    /// Waits for the next event; `None` once the tracker is shut down and everything was returned.
    ///
    /// Cancel safe: an event that was read is returned by the next call.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read. The next call retries, and nothing is lost.
    pub async fn next(&mut self) -> Option<Result<LedgerEvent>> {
        loop {
            if let Some(event) = lock(&self.inner).pop() {
                return Some(Ok(event));
            }
            let inner = Arc::clone(&self.inner);
            match aside(move || lock(&inner).poll()).await.flatten() {
                Ok(Poll::Events) => continue,
                Ok(Poll::End) => return None,
                Ok(Poll::Nothing) => {}
                Err(error) => return Some(Err(error)),
            }
            if let Err(error) = self.written().await {
                return Some(Err(error));
            }
        }
    }

    /// Waits until the ledger is written, or until it is time to check again.
    async fn written(&self) -> Result<()> {
        let Some(writes) = &self.writes else {
            tokio::time::sleep(UNWATCHED).await;
            return Ok(());
        };
        let written = async {
            loop {
                readable(writes.fd()).await?;
                if writes.take() {
                    return Ok(());
                }
            }
        };
        if let Ok(written) = tokio::time::timeout(WATCHED, written).await {
            written?;
            let pause = lock(&self.inner).pause();
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}
