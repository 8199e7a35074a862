//! Which rows a query returns.

use std::time::SystemTime;

/// Selects rows of the history, or leaks: by default all of them.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// # procledger::Tracker::builder(&path).open()?.shutdown()?;
/// use std::time::{Duration, SystemTime};
/// use procledger::{Ledger, Query};
///
/// let ledger = Ledger::open(&path)?;
/// let last_hour = Query::new().since(SystemTime::now() - Duration::from_hours(1));
/// assert!(ledger.leaks(last_hour)?.is_empty());
/// assert!(ledger.history(Query::new().task_id("task-42").limit(10))?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Query {
    pub(crate) task_id: Option<String>,
    pub(crate) since: Option<SystemTime>,
    pub(crate) limit: Option<u32>,
}

impl Query {
    /// Returns a query that selects everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Selects only rows of this task.
    pub fn task_id(mut self, task_id: impl Into<String>) -> Self {
        self.task_id = Some(task_id.into());
        self
    }

    /// Selects only processes that ended, or leaks that were found, at this time or later; all of
    /// them with `None`.
    pub fn since(mut self, since: impl Into<Option<SystemTime>>) -> Self {
        self.since = since.into();
        self
    }

    /// Selects at most this many, the newest.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }
}
