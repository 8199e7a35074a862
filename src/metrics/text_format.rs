//! A page in Prometheus' text format, 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use super::families::{Family, Kind};
use crate::model::{Histogram, Millis};

/// A page: the families one after another, each with its samples.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    name: &'static str,
    /// Labels of every sample: `a="1",b="2"`, or empty.
    common: String,
}

impl Page {
    /// Starts a page whose samples all have these labels. Their values may be any text.
    pub(super) fn with_labels(labels: &[(&str, &str)]) -> Self {
        let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
        Self { common: pairs.collect::<Vec<_>>().join(","), ..Self::default() }
    }

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

    /// Adds a sample to the last family. The label values are words of this crate, in which nothing
    /// needs escaping.
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
        let own = labels.iter().copied().chain(bound);
        let own = own.map(|(name, value)| format!("{name}=\"{value}\""));
        let common = Some(self.common.clone()).filter(|common| !common.is_empty());
        let labels: Vec<String> = common.into_iter().chain(own).collect();
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

/// Escapes a label value as the format requires.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Converts to seconds, the unit of all times in Prometheus.
pub(super) fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
pub(super) fn unix_seconds(at: SystemTime) -> f64 {
    Millis::from(at).0 as f64 / 1_000.0
}
