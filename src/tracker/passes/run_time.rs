//! Enforces limits on the run time of trees.

use std::{sync::Arc, time::Instant};

use super::pass::Pass;
use crate::{
    model::EndReason,
    policy::limits::ran_too_long,
    tracker::{
        core::Core,
        end::background,
        runtime::{background_ends::Due, cause::Cause},
    },
};

/// Ends processes that have run too long, in the background, since the handling of the next death
/// must not wait for a grace.
pub(super) struct RunTimeLimits;

impl Pass for RunTimeLimits {
    fn due(&self, core: &Core) -> Option<Instant> {
        let entries = core.registry.with_deadline();
        let left = entries.iter().filter_map(|entry| {
            Some(entry.root.limits.max_runtime?.saturating_sub(entry.run_time()))
        });
        left.min().map(|left| Instant::now() + left)
    }

    fn run_once(&mut self, core: &Arc<Core>, _now: Instant) {
        let due = core.registry.with_deadline().into_iter().filter_map(|entry| {
            let rule = ran_too_long(entry.root.limits.max_runtime, entry.run_time())?;
            let cause = Cause { reason: EndReason::MaxRuntime, leak: None, rule };
            Some(Due { entry, cause, answer: None })
        });
        background::end_in_background(core, due.collect());
    }
}
