//! Decides how history is deleted: how much at a time, with which pauses, and up to which time.

use std::time::Duration;

use crate::model::Millis;

/// How long a step may hold the write lock. This is less than the time slice that the scheduler
/// gives to a thread that has just slept: a thread that is preempted during a step holds the lock
/// until it runs again. A waiting writer tries again after 1, 3, 8, 18 and 33 ms (SQLite's busy
/// handler), so with the pause below it gets the lock long before 50 ms have passed.
const TARGET: Duration = Duration::from_micros(1_500);
/// A pause is this many times as long as the lock was held.
const PAUSES: u32 = 3;
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The size of the first step, before anything is known about the disk.
const FIRST: u32 = 16;
const SMALLEST: u32 = 4;
const LARGEST: u32 = 2_000;
/// To fit a size limit, one part in this many of the history's time span is deleted at a time.
const PART: i64 = 16;
const SHORTEST_PART: Duration = Duration::from_mins(1);
/// The longest time between two checks; it is shorter if history is kept for less than four days.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// The number of rows or pages that a step handles: as many as the disk can handle within the
/// target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSize {
    size: u32,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self { size: FIRST }
    }
}

impl BatchSize {
    pub(crate) fn size(self) -> u32 {
        self.size
    }

    /// Records how long the last step held the lock; returns how long to pause.
    pub(crate) fn took(&mut self, held: Duration) -> Duration {
        if held > TARGET {
            self.size = (self.size / 2).max(SMALLEST);
        } else if held < TARGET / 2 {
            self.size = (self.size.saturating_mul(3) / 2).min(LARGEST);
        }
        held.saturating_mul(PAUSES).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }
}

/// Returns the time up to which history is deleted next so that the ledger gets smaller. Each step
/// deletes the oldest part, counted from the `last` cutoff.
pub(crate) fn next_cutoff(oldest: Millis, last: Option<Millis>, now: Millis) -> Millis {
    let from = last.map_or(oldest, |last| last.max(oldest));
    let part = now.0.saturating_sub(from.0) / PART;
    let shortest = i64::try_from(SHORTEST_PART.as_millis()).unwrap_or(i64::MAX);
    Millis(from.0.saturating_add(part.max(shortest)).min(now.0))
}

/// Returns how often history that is kept for `keep` is checked.
pub(crate) fn interval(keep: Duration) -> Duration {
    (keep / 96).min(LONGEST_INTERVAL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_grow_on_a_fast_disk_and_shrink_on_a_slow_one() {
        let mut batch_size = BatchSize::default();
        for _ in 0..40 {
            batch_size.took(Duration::from_micros(10));
        }
        assert_eq!(batch_size.size(), LARGEST);
        assert_eq!(batch_size.took(Duration::from_millis(40)), Duration::from_millis(120));
        assert_eq!(batch_size.size(), LARGEST / 2);
        for _ in 0..40 {
            batch_size.took(Duration::from_secs(9));
        }
        assert_eq!((batch_size.size(), batch_size.took(Duration::MAX)), (SMALLEST, LONGEST_PAUSE));
        assert_eq!(
            batch_size.took(TARGET / 2 + Duration::from_micros(1)),
            SHORTEST_PAUSE,
            "just right"
        );
        assert_eq!(batch_size.size(), SMALLEST);
    }

    proptest! {
        #[test]
        fn cutoffs_move_on_until_now(oldest in -1_i64 << 50..1 << 50, span in 0_i64..1 << 50) {
            let now = Millis(oldest + span);
            let (mut last, mut rounds) = (None, 0);
            while last != Some(now) {
                let next = next_cutoff(Millis(oldest), last, now);
                prop_assert!(last.is_none_or(|last| last < next) && next <= now);
                last = Some(next);
                rounds += 1;
                prop_assert!(rounds < 1_000);
            }
        }
    }

    #[test]
    fn a_short_history_is_checked_more_often() {
        assert_eq!(interval(Duration::from_hours(24 * 90)), LONGEST_INTERVAL);
        assert_eq!(interval(Duration::MAX), LONGEST_INTERVAL);
        assert_eq!(interval(Duration::from_millis(960)), Duration::from_millis(10));
    }
}
