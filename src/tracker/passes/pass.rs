//! The trait of passes.

use std::{sync::Arc, time::Instant};

use crate::tracker::core::Core;

/// A periodic check.
pub(in crate::tracker) trait Pass {
    /// Returns when the pass is due; `None` while there is nothing to check.
    fn due(&self, core: &Core) -> Option<Instant>;

    /// Runs the pass once. The handling of the next death waits for it, so work that may take
    /// longer than some milliseconds must be done on a separate thread.
    fn run_once(&mut self, core: &Arc<Core>, now: Instant);
}
