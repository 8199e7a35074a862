use std::time::Duration;

use proptest::prelude::*;

use super::super::{limits::passed, retention::Pace};
use crate::record::{EndReason, Limits};

prop_compose! {
    fn limits()(
        max_runtime in prop::option::of(0..50_u64),
        max_rss in prop::option::of(0..50_u64),
    ) -> Limits {
        let max_runtime = max_runtime.map(Duration::from_secs);
        Limits { survive: false, grace: Duration::ZERO, max_runtime, max_rss }
    }
}

proptest! {
    #[test]
    fn a_limit_is_passed_exactly_from_where_it_says(
        limits in limits(), age in 0..60_u64, rss in 0..60_u64,
    ) {
        let age = Duration::from_secs(age);
        let too_old = limits.max_runtime.is_some_and(|limit| age >= limit);
        let too_large = limits.max_rss.is_some_and(|limit| rss > limit);
        let expected = match (too_old, too_large) {
            (true, _) => Some(EndReason::MaxRuntime),
            (false, true) => Some(EndReason::MaxRss),
            (false, false) => None,
        };
        prop_assert_eq!(passed(&limits, age, rss).map(|(reason, _)| reason), expected);
    }

    #[test]
    fn what_has_passed_its_limit_does_not_come_back_by_growing(
        limits in limits(), age in 0..60_u64, rss in 0..60_u64, older in 0..60_u64, larger in 0..60_u64,
    ) {
        let then = passed(&limits, Duration::from_secs(age), rss);
        let later = passed(&limits, Duration::from_secs(age + older), rss + larger);
        prop_assert!(then.is_none() || later.is_some());
    }

    #[test]
    fn a_step_of_the_housekeeping_is_never_empty_and_never_without_a_pause(
        held in prop::collection::vec(any::<u64>().prop_map(Duration::from_nanos), 0..60),
    ) {
        let mut pace = Pace::default();
        for held in held {
            let pause = pace.took(held);
            prop_assert!((1..=10_000).contains(&pace.size()));
            prop_assert!(pause >= Duration::from_millis(1) && pause <= Duration::from_secs(1));
            // The lock is free longer than it was held, up to the longest pause.
            prop_assert!(pause >= held.saturating_mul(2).min(Duration::from_secs(1)));
        }
    }
}
