//! Determines when passes are due. The loop that runs them is in [`crate::tracker::monitor`].

use std::{sync::Arc, time::Instant};

use super::{
    adopted_zombies::AdoptedZombies, health::HealthPass, memory_limits::MemoryLimits, pass::Pass,
    pending_ends::PendingEnds, retention::FirstMaintenance, run_time::RunTimeLimits,
};
use crate::tracker::{core::Core, options::Options};

/// The passes that the monitor runs. Those that are due at the same time run in this order.
pub(in crate::tracker) struct Schedule(Vec<Box<dyn Pass>>);

/// The times when the passes of a schedule are due.
pub(in crate::tracker) struct Due {
    /// The earliest of the times.
    pub(in crate::tracker) next: Instant,
    each: Vec<Option<Instant>>,
}

impl Schedule {
    pub(in crate::tracker) fn new(options: &Options) -> Self {
        let now = Instant::now();
        Self(vec![
            Box::new(PendingEnds::new(now)),
            Box::new(RunTimeLimits),
            Box::new(MemoryLimits::new(now)),
            Box::new(AdoptedZombies::new(now)),
            Box::new(FirstMaintenance::new(now)),
            Box::new(HealthPass::new(now, options.health_interval)),
        ])
    }

    pub(in crate::tracker) fn due(&self, core: &Core) -> Due {
        let each: Vec<Option<Instant>> = self.0.iter().map(|pass| pass.due(core)).collect();
        // There is always one, since the health pass is always due at some time.
        let next = each.iter().flatten().min().copied().unwrap_or_else(Instant::now);
        Due { next, each }
    }

    /// Runs the passes that were due by now.
    pub(in crate::tracker) fn run(&mut self, core: &Arc<Core>, due: &Due) {
        for (pass, due) in self.0.iter_mut().zip(&due.each) {
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                pass.run_once(core, now);
            }
        }
    }
}
