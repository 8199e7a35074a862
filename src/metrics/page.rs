//! A page in Prometheus' text format, 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::{fmt::Write, time::Duration};

use super::families::{Family, Kind};
use crate::model::{Histogram, Millis};

/// Families are written one after another, each with its samples.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    pub(super) fn family(&mut self, family: Family) -> &mut Self {
        let Family { name, kind, help } = family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self
    }

    /// Adds a sample to the family that was begun last. Label values are words of ours: nothing in them needs escaping.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.line("", labels, None, value);
    }

    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        for (bound, count) in &histogram.buckets {
            self.line("_bucket", labels, Some(&seconds(*bound).to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), histogram.count);
        self.line("_sum", labels, None, seconds(histogram.sum));
        self.line("_count", labels, None, histogram.count);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<&str>,
        value: impl std::fmt::Display,
    ) {
        let bound = bound.map(|bound| ("le", bound));
        let labels: Vec<String> = (labels.iter().copied().chain(bound))
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let name = self.name;
        self.push(format_args!("{name}{suffix}{labels} {value}\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// Converts to seconds, the unit of all times in Prometheus.
pub(super) fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
pub(super) fn unix_seconds(at: Millis) -> f64 {
    at.0 as f64 / 1_000.0
}
