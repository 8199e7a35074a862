//! Determines which trees exceeded their limit of time or memory.

use std::time::Duration;

use crate::model::Rule;

/// From this many eighths of its limit on, a tree's members are determined anew for each check:
/// what the cheap check misses is usually smaller than the remaining eighth.
const NEAR: u64 = 7;

/// Returns the rule by which a process that has run for `age` is over its limit.
pub(crate) fn ran_too_long(limit: Option<Duration>, age: Duration) -> Option<Rule> {
    let limit = limit?;
    (age >= limit).then_some(Rule::MaxRuntime { age, limit })
}

/// The memory that a tree uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeMemory {
    /// The sum of the resident memory and swap of all members; shared memory counts once for each
    /// member that maps it.
    pub(crate) resident: u64,
    /// The same, with each page divided by the number of processes that map it; `None` until it was
    /// needed.
    pub(crate) proportional: Option<u64>,
}

impl TreeMemory {
    /// Reports whether it is worth scanning all processes and determining what the members share.
    /// The proportional size is never larger than `resident`.
    pub(crate) fn is_near(&self, limit: u64) -> bool {
        self.resident > limit / 8 * NEAR
    }

    /// Returns the rule by which the tree is over its limit, with both figures. Without the
    /// proportional figure no tree is over its limit.
    pub(crate) fn is_too_much(&self, limit: u64) -> Option<Rule> {
        let used = self.proportional.filter(|used| *used > limit)?;
        Some(Rule::MaxRss { used, resident: self.resident, limit })
    }
}

/// Returns how long a process has run: the time since it started, minus the time for which the
/// machine was suspended since then.
///
/// Start ticks are of the boot clock, which counts suspended time; the difference between the boot
/// and the monotonic clock is all time suspended since boot.
pub(crate) fn run_time(
    since_start: Duration,
    suspended_then: Duration,
    suspended_now: Duration,
) -> Duration {
    since_start.saturating_sub(suspended_now.saturating_sub(suspended_then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_limit_on() {
        let limit = Some(Duration::from_secs(5));
        assert_eq!(ran_too_long(limit, Duration::from_millis(4_999)), None);
        assert!(ran_too_long(limit, Duration::from_secs(5)).is_some());
        assert_eq!(ran_too_long(None, Duration::MAX), None);
    }

    #[test]
    fn only_the_proportional_figure_ends_a_tree() {
        let shared = TreeMemory { resident: 1_228, proportional: Some(134) };
        assert!(shared.is_near(600));
        assert_eq!(shared.is_too_much(600), None);
        assert_eq!(TreeMemory { resident: 1_228, proportional: None }.is_too_much(600), None);
        let rule = shared.is_too_much(133).expect("too much").to_string();
        assert!(rule.starts_with("its tree used 134 bytes"), "{rule}");
        assert!(rule.contains("1228") && rule.ends_with("its limit of 133"), "{rule}");
        assert_eq!(shared.is_too_much(134), None, "the limit itself is allowed");
    }

    #[test]
    fn a_tree_can_come_near_any_limit() {
        let memory = |resident| TreeMemory { resident, proportional: None };
        assert!(memory(u64::MAX).is_near(u64::MAX));
        assert!(!memory(u64::MAX / 2).is_near(u64::MAX));
        assert!(memory(1).is_near(0));
        assert!(!memory(0).is_near(0));
    }

    #[test]
    fn suspended_time_does_not_count() {
        let hours = Duration::from_hours;
        assert_eq!(run_time(hours(10), hours(3), hours(11)), hours(2));
        assert_eq!(run_time(hours(10), hours(3), hours(3)), hours(10), "slept before it began");
        // The two clocks are read one after the other.
        assert_eq!(run_time(hours(1), hours(3), hours(2)), hours(1));
        assert_eq!(run_time(hours(1), hours(0), hours(5)), Duration::ZERO);
    }
}
