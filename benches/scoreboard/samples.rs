//! Many measurements of one quantity.

use std::time::{Duration, Instant};

/// Times, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time.as_nanos() as f64);
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}

pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

/// Measures two alternately, so that other load on the machine affects both.
pub(crate) fn in_turns(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Duration,
    mut limit: impl FnMut(usize) -> Duration,
) -> (Samples, Samples) {
    let (mut first, mut second) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        // The order alternates, so that neither always comes second.
        if round % 2 == 0 {
            first.add(ours(round));
            second.add(limit(round));
        } else {
            second.add(limit(round));
            first.add(ours(round));
        }
    }
    (first, second)
}
