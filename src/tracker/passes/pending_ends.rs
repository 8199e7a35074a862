//! Repeats all checks of pending ends that cannot be awaited on a file descriptor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::pass::Pass;
use crate::tracker::{
    core::Core,
    end::{exit_statuses::STATUS_PAUSE, foreign_claims::CLAIM_PAUSE, settle},
};

/// Pause between two queries for a late status; querying one process takes a system call or two.
const LATE_PAUSE: Duration = Duration::from_millis(250);

/// Checks pending ends while there are any.
pub(super) struct PendingEnds {
    last: Instant,
}

impl PendingEnds {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now }
    }
}

impl Pass for PendingEnds {
    fn due(&self, core: &Core) -> Option<Instant> {
        let pending = &core.pending;
        let status = (!pending.statuses.is_empty()).then_some(STATUS_PAUSE);
        let claimed = (!pending.claimed.is_empty()).then_some(CLAIM_PAUSE);
        let late = (!pending.unfinished.is_empty()).then_some(LATE_PAUSE);
        let pause = [status, claimed, late].into_iter().flatten().min()?;
        Some(self.last + pause)
    }

    fn run_once(&mut self, core: &Arc<Core>, _now: Instant) {
        settle::recheck_pending(core);
        self.last = Instant::now();
    }
}
