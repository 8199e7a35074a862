//! Figures of a fleet in the format that Prometheus reads.

use std::time::Duration;

use super::{
    families::{
        FLEET_GAP, FLEET_LEAKS, FLEET_LIVE, FLEET_LOST, FLEET_RESTARTS, FLEET_SEEN, FLEET_SILENT,
        FLEET_SKEW, FLEET_SURVIVORS, FLEET_WINDOW, Family,
    },
    text_format::{Page, seconds, unix_seconds},
};
use crate::model::FleetHost;

/// Returns the page of all hosts except those that were given up, with the leaks of a window by
/// host.
pub(crate) fn fleet_page<'a>(
    hosts: &[FleetHost],
    leaks: impl Iterator<Item = (&'a str, u64)>,
    window: Duration,
) -> String {
    let mut page = Page::default();
    let hosts = || hosts.iter().filter(|host| !host.forgotten);
    let mut family = |family: Family, value: &dyn Fn(&FleetHost) -> f64| {
        page.family(family);
        for host in hosts() {
            let ledger = host.ledger.simple().to_string();
            page.sample(&[("host", &host.host), ("ledger", &ledger)], value(host));
        }
    };
    family(FLEET_SEEN, &|host| unix_seconds(host.seen_at));
    family(FLEET_SILENT, &|host| seconds(host.silent));
    family(FLEET_SKEW, &|host| precise(host.skew_ms) / 1000.0);
    family(FLEET_LIVE, &|host| figure(host.live));
    family(FLEET_SURVIVORS, &|host| figure(host.survivors));
    family(FLEET_GAP, &|host| figure(host.gap + host.leak_gap));
    family(FLEET_LOST, &|host| figure(host.lost + host.lost_leaks));
    family(FLEET_RESTARTS, &|host| figure(host.restarts));
    page.family(FLEET_LEAKS);
    for (host, leaks) in leaks {
        page.sample(&[("host", host)], leaks);
    }
    page.family(FLEET_WINDOW).sample(&[], seconds(window));
    page.finish()
}

/// Converts a count to a float, as which Prometheus stores it: counts are far below 2^53, up to
/// which that is exact.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no integers")]
fn figure(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no integers")]
fn precise(number: i64) -> f64 {
    number as f64
}
