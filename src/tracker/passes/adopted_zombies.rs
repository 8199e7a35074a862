//! Checks for zombies that tasks have left to this process, while there may be any.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::pass::Pass;
use crate::tracker::{
    core::Core,
    end::adopted_zombies::{may_adopt, reap_adopted},
};

/// Time between two checks for zombies.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause after a scan, as a multiple of its duration, which grows with the number of the host's
/// children.
const BETWEEN_SCANS: u32 = 20;

/// Reaps zombies until some seconds after the last root has ended; after that the health pass does
/// so.
pub(super) struct AdoptedZombies {
    next: Instant,
}

impl AdoptedZombies {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now }
    }
}

impl Pass for AdoptedZombies {
    fn due(&self, core: &Core) -> Option<Instant> {
        may_adopt(core).then_some(self.next)
    }

    fn run_once(&mut self, core: &Arc<Core>, now: Instant) {
        reap_adopted(core);
        self.next = now + PAUSE.max(now.elapsed() * BETWEEN_SCANS);
    }
}
