//! Ends that could not be recorded yet, because they could not be written or are still incomplete.

use std::{sync::Arc, time::Instant};

use super::{
    shared_list::SharedList,
    tracked::{Dead, Tracked},
};
use crate::{
    model::{ProcessId, RootEnd, Settled},
    sys::PidFd,
};

/// A dead process whose status is not available yet, with the time since when it is dead.
pub(in crate::tracker) type Waiting = (Dead, Instant);

/// A dead process whose end is recorded, but which is not reaped yet or whose status is unknown.
#[derive(Debug)]
pub(in crate::tracker) struct Unfinished {
    pub(in crate::tracker) entry: Arc<Tracked>,
    pub(in crate::tracker) pidfd: Arc<PidFd>,
    pub(in crate::tracker) since: Instant,
}

/// Ends that could not be recorded yet. Written by whichever thread records an end; taken by the
/// monitor, by health passes and by the shutdown, which put back those that must wait longer.
#[derive(Debug, Default)]
pub(in crate::tracker) struct PendingWrites {
    /// Ends of roots that could not be written yet (invariant 10).
    pub(in crate::tracker) roots: SharedList<RootEnd>,
    /// Outcomes of claimed rows that could not be written yet.
    pub(in crate::tracker) settled: SharedList<Settled>,
    /// Dead processes whose ends are not recorded yet, since their statuses are not available yet.
    pub(in crate::tracker) statuses: SharedList<Waiting>,
    /// Dead processes whose ends are recorded, but whose status is not available yet, or that
    /// cannot be reaped yet.
    pub(in crate::tracker) unfinished: SharedList<Unfinished>,
    /// Dead roots of ours that another instance was ending when they died.
    pub(in crate::tracker) claimed: SharedList<Dead>,
}

impl PendingWrites {
    /// Returns whether an end or an outcome waits to be written.
    pub(in crate::tracker) fn is_unwritten(&self) -> bool {
        !self.roots.is_empty() || !self.settled.is_empty()
    }

    /// Returns the rows whose ends or outcomes wait to be written.
    pub(in crate::tracker) fn rows(&self) -> Vec<ProcessId> {
        let mut rows = self.roots.map(|end| end.process);
        rows.extend(self.settled.map(|settled| settled.row.id()).into_iter().flatten());
        rows
    }
}
