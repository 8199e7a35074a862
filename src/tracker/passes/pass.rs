//! The one shape of a check that is repeated.

use std::{sync::Arc, time::Instant};

use crate::tracker::core::Core;

/// A check that is repeated.
pub(in crate::tracker) trait Pass {
    /// Returns when it is due; `None` while there is nothing to check.
    fn due(&self, core: &Core) -> Option<Instant>;

    /// Runs it once. The next death waits for that: what may take longer than some milliseconds gets a thread of its own.
    fn run_once(&mut self, core: &Arc<Core>, now: Instant);
}
