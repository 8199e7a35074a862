//! Which trees have used up their time or memory.

use std::time::Duration;

use crate::record::{EndReason, Limits};

/// The limit that a tree has passed, with the rule in words; its age counts before its memory.
pub(crate) fn passed(limits: &Limits, age: Duration, tree_rss: u64) -> Option<(EndReason, String)> {
    if let Some(limit) = limits.max_runtime
        && age >= limit
    {
        return Some((
            EndReason::MaxRuntime,
            format!("ran for {age:.1?}, longer than its limit of {limit:.1?}"),
        ));
    }
    let limit = limits.max_rss?;
    (tree_rss > limit).then(|| {
        (
            EndReason::MaxRss,
            format!("its tree used {tree_rss} bytes, more than its limit of {limit}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits =
        Limits { survive: false, grace: Duration::ZERO, max_runtime: None, max_rss: None };

    #[test]
    fn without_limits_nothing_is_passed() {
        assert_eq!(passed(&NONE, Duration::MAX, u64::MAX), None);
    }

    #[test]
    fn time_counts_from_the_limit_on_and_memory_beyond_it() {
        let limits =
            Limits { max_runtime: Some(Duration::from_secs(5)), max_rss: Some(100), ..NONE };
        let reason =
            |age, rss| passed(&limits, Duration::from_millis(age), rss).map(|(reason, _)| reason);
        assert_eq!(reason(4_999, 100), None);
        assert_eq!(reason(5_000, 0), Some(EndReason::MaxRuntime));
        assert_eq!(reason(0, 101), Some(EndReason::MaxRss));
        assert_eq!(reason(5_000, 101), Some(EndReason::MaxRuntime));
    }
}
