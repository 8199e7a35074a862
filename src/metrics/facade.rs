//! Passes the same events to the recorder of the `metrics` facade; does nothing without that
//! feature.
//!
//! If the program installs no recorder, an event costs one atomic load in the facade.

use std::time::Duration;

use super::families::Family;

/// Names and values of labels; all values are words of this crate.
pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];

#[cfg(feature = "metrics")]
pub(super) fn count<const N: usize>(family: Family, labels: Labels<N>, by: u64) {
    metrics::counter!(family.name, &labels).increment(by);
}

#[cfg(feature = "metrics")]
pub(super) fn set<const N: usize>(family: Family, labels: Labels<N>, value: f64) {
    metrics::gauge!(family.name, &labels).set(value);
}

#[cfg(feature = "metrics")]
pub(super) fn change(family: Family, by: f64) {
    metrics::gauge!(family.name).increment(by);
}

#[cfg(feature = "metrics")]
pub(super) fn observe<const N: usize>(family: Family, labels: Labels<N>, span: Duration) {
    metrics::histogram!(family.name, &labels).record(span);
}

/// Describes to the recorder what each figure means and its unit.
#[cfg(feature = "metrics")]
pub(super) fn describe() {
    use super::families::{
        DETECTION, ENDS, EXECUTING, EXPORT_FAILURES, EXPORT_WRITES, Kind, LAST_PASS, LEAKS,
        PASS_DURATION, PASSES, REAP_LATENCY, SPAWN_FAILURES, SPAWNS,
    };
    for family in [
        EXECUTING,
        SPAWNS,
        SPAWN_FAILURES,
        ENDS,
        LEAKS,
        PASSES,
        PASS_DURATION,
        LAST_PASS,
        EXPORT_WRITES,
        EXPORT_FAILURES,
        REAP_LATENCY,
        DETECTION,
    ] {
        let unit = if family.name.ends_with("_seconds") {
            metrics::Unit::Seconds
        } else {
            metrics::Unit::Count
        };
        match family.kind {
            Kind::Counter => metrics::describe_counter!(family.name, unit, family.help),
            Kind::Gauge => metrics::describe_gauge!(family.name, unit, family.help),
            Kind::Histogram => metrics::describe_histogram!(family.name, unit, family.help),
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod without {
    use super::{Duration, Family, Labels};

    pub(in crate::metrics) fn count<const N: usize>(_: Family, _: Labels<N>, _: u64) {}
    pub(in crate::metrics) fn set<const N: usize>(_: Family, _: Labels<N>, _: f64) {}
    pub(in crate::metrics) fn change(_: Family, _: f64) {}
    pub(in crate::metrics) fn observe<const N: usize>(_: Family, _: Labels<N>, _: Duration) {}
    pub(in crate::metrics) fn describe() {}
}
#[cfg(not(feature = "metrics"))]
pub(super) use without::{change, count, describe, observe, set};
