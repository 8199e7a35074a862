//! A histogram with fixed bounds, made of atomics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::model::Histogram;

/// Upper bounds in microseconds: from a death that the monitor sees at once to a pass over an
/// overloaded machine.
const BOUNDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Observations of one kind of latency.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// The number of observations for each bound, without those of smaller bounds, and one for
    /// observations above all bounds.
    slots: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    pub(super) fn observe(&self, span: Duration) {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let slot = BOUNDS.partition_point(|&bound| bound < us);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.slots[slot].fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the histogram. The count is the sum of the slots as they were read, so that it always
    /// equals the `+Inf` bucket.
    pub(super) fn read(&self) -> Histogram {
        let mut count = 0;
        let mut up_to = |slot: &AtomicU64| {
            count += slot.load(Ordering::Relaxed);
            count
        };
        let buckets = (BOUNDS.iter().zip(&self.slots))
            .map(|(&bound, slot)| (Duration::from_micros(bound), up_to(slot)))
            .collect();
        let count = up_to(&self.slots[BOUNDS.len()]);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Histogram { buckets, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_bucket_of_its_bound_and_in_all_above() {
        let latency = Latency::default();
        for us in [0, 100, 101, 61_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        let read = latency.read();
        let counts: Vec<u64> = read.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts[..3], [2, 3, 3]);
        assert_eq!(counts[counts.len() - 1], 3);
        assert_eq!(read.count, 4);
        assert_eq!(read.sum, Duration::from_micros(61_000_201));
        assert!(read.buckets.is_sorted());
    }
}
