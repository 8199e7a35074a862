//! How a kill that a person requests proceeds.

use std::time::Duration;

use super::run::EndPlan;
use crate::{
    error::{Error, Result},
    sys::Signal,
};

/// How [`Tracker::kill_with`](crate::Tracker::kill_with) ends trees.
///
/// ```
/// use std::time::Duration;
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
/// # tracker.spawn(procledger::Job::new("web", "sleep").arg("300"))?;
/// // SIGINT to the program alone, SIGINT to what is left of its tree when it has ended, SIGKILL after 20 s.
/// let how = procledger::KillOptions::new().signal(2).root_first(true).grace(Duration::from_secs(20));
/// let report = tracker.kill_with(&["web"], "the operator", how)?;
/// assert_eq!(report.survived(), 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct KillOptions {
    pub(super) grace: Option<Duration>,
    signal: Option<i32>,
    root_first: bool,
}

impl KillOptions {
    /// Ends trees as [`Tracker::kill`](crate::Tracker::kill) does: SIGTERM to all members, the grace of each task, SIGKILL.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time between the first signal and SIGKILL, instead of that of each task.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sets the first signal, by its number in signal(7); SIGTERM by default.
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self
    }

    /// Sets whether the root of each tree is asked to end before its descendants: a program that needs its helpers to end in
    /// order is given them. The others are asked once it has ended, or after the grace, and have a grace of their own.
    pub fn root_first(mut self, on: bool) -> Self {
        self.root_first = on;
        self
    }

    pub(super) fn plan(self) -> Result<EndPlan> {
        let signal = self.signal.map_or(Ok(Signal::TERM), |number| {
            Signal::from_number(number).ok_or_else(|| {
                Error::invalid(format!("{number} is not a signal: use 1 to {}", Signal::LAST))
            })
        })?;
        Ok(if self.root_first { EndPlan::root_first(signal) } else { EndPlan::at_once(signal) })
    }
}
