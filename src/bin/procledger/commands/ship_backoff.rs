//! How long `ship` waits between two attempts to reach the fleet's database.

use std::time::Duration;

/// Wait after the first error; it doubles with each further one, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Returns the longest wait after this many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(20)).min(LONGEST_WAIT)
}

/// Returns a random part of a span: a fleet that reconnects at once would take its server down
/// again.
pub(super) fn jittered(span: Duration) -> Duration {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(uuid::Uuid::new_v4().as_u64_pair().0 % millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        let seconds = |failures| backoff(failures).as_secs();
        assert_eq!([0, 1, 2, 8, 9, 40].map(seconds), [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn a_wait_is_a_random_part_of_the_span() {
        let span = Duration::from_secs(30);
        let waits: Vec<_> = (0..50).map(|_| jittered(span)).collect();
        assert!(
            waits.iter().all(|wait| *wait < span) && waits.iter().any(|wait| *wait != waits[0])
        );
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
