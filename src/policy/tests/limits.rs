use std::time::Duration;

use proptest::prelude::*;

use crate::policy::{
    limits::{TreeMemory, ran_too_long},
    retention::BatchSize,
};

proptest! {
    #[test]
    fn the_run_time_limit_is_inclusive(
        limit in prop::option::of(0..50_u64), age in 0..60_u64,
    ) {
        let over = ran_too_long(limit.map(Duration::from_secs), Duration::from_secs(age));
        prop_assert_eq!(over.is_some(), limit.is_some_and(|limit| age >= limit));
    }

    #[test]
    fn only_the_proportional_memory_ends_a_tree_and_the_cheap_check_never_misses_it(
        limit in 0..50_u64, used in 0..60_u64, shared in 0..60_u64,
    ) {
        let memory = TreeMemory { resident: used + shared, proportional: Some(used) };
        prop_assert_eq!(memory.is_too_much(limit).is_some(), used > limit);
        // A tree over its limit is near it: the cheap check misses none.
        prop_assert!(used <= limit || memory.is_near(limit));
        let unseen = TreeMemory { proportional: None, ..memory };
        prop_assert_eq!(unseen.is_too_much(limit), None);
    }

    #[test]
    fn a_tree_over_its_limit_stays_over_it_when_it_grows(
        limit in prop::option::of(0..50_u64), age in 0..60_u64, older in 0..60_u64,
    ) {
        let limit = limit.map(Duration::from_secs);
        let then = ran_too_long(limit, Duration::from_secs(age));
        let later = ran_too_long(limit, Duration::from_secs(age + older));
        prop_assert!(then.is_none() || later.is_some());
    }

    #[test]
    fn a_step_of_the_housekeeping_is_never_empty_and_always_followed_by_a_pause(
        held in prop::collection::vec(any::<u64>().prop_map(Duration::from_nanos), 0..60),
    ) {
        let mut batch_size = BatchSize::default();
        for held in held {
            let pause = batch_size.took(held);
            prop_assert!((1..=10_000).contains(&batch_size.size()));
            prop_assert!(pause >= Duration::from_millis(1) && pause <= Duration::from_secs(1));
            // The lock is free longer than it was held, up to the longest pause.
            prop_assert!(pause >= held.saturating_mul(2).min(Duration::from_secs(1)));
        }
    }
}
