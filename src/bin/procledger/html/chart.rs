//! Bar charts over time, drawn as SVG: the page needs no library to show them.
//!
//! A drawing has 1000 by 100 units and is stretched to fit; labels are beside it, not in it, so
//! that they keep their size on a phone.

#![expect(clippy::cast_precision_loss, reason = "a drawing shows no more than three digits")]

use std::time::SystemTime;

use chrono::{Months, NaiveDateTime};
use procledger::LeakGroup;

use super::{
    format::{Figure, counted, thousands},
    time_bucket::TimeBucket,
};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;
/// A bar's share of its slot.
const FILLED: f64 = 0.78;
/// With more slots than this, bars would be as thin as lines.
const MOST_SLOTS: usize = 120;

#[derive(Debug)]
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) name: String,
    /// A description in words, for screen readers.
    pub(super) summary: String,
    pub(super) legend: Vec<&'static str>,
    /// From top to bottom.
    pub(super) scale: Vec<String>,
    /// From left to right.
    pub(super) times: Vec<String>,
    pub(super) slots: Vec<Slot>,
}

/// One interval of time.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) x: String,
    pub(super) width: String,
    /// The text shown for the slot: its time and its sum.
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

#[derive(Debug)]
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) width: String,
    pub(super) height: String,
}

/// The sums of the leaks found within one slot.
#[derive(Clone, Debug)]
struct Sum {
    start: NaiveDateTime,
    orphans: u64,
    strays: u64,
    unregistered: u64,
    hours: f64,
    memory: u64,
}

/// Returns the charts of leaks, process-hours and memory, from `since` or the oldest leak,
/// whichever is earlier, until now. The groups are by hour.
pub(super) fn charts(
    by_hour: &[LeakGroup],
    since: Option<SystemTime>,
    now: SystemTime,
) -> Vec<Chart> {
    let Some((bucket, slots)) = slots(by_hour, since, now) else { return Vec::new() };
    vec![leaks(bucket, &slots), hours(bucket, &slots), memory(bucket, &slots)]
}

fn calendar(time: SystemTime) -> Option<NaiveDateTime> {
    crate::render::calendar(time).map(|time| time.naive_utc())
}

/// Returns the finest bucket that needs at most [`MOST_SLOTS`] slots, and the sums of all slots,
/// including empty ones. A time that the calendar cannot represent is in no slot.
fn slots(
    groups: &[LeakGroup],
    since: Option<SystemTime>,
    now: SystemTime,
) -> Option<(TimeBucket, Vec<Sum>)> {
    let found: Vec<(NaiveDateTime, &LeakGroup)> =
        (groups.iter()).filter_map(|group| Some((calendar(group.last_found_at)?, group))).collect();
    let oldest = found.iter().map(|(time, _)| *time).min()?;
    let newest = found.iter().map(|(time, _)| *time).max()?;
    let first = since.and_then(calendar).map_or(oldest, |since| since.min(oldest));
    // If the clock was set back, leaks may lie in the future.
    let last = calendar(now).map_or(newest, |now| now.max(newest));
    let (bucket, mut sums) = TimeBucket::ALL
        .into_iter()
        .find_map(|bucket| Some((bucket, empty(bucket, first, last)?)))?;
    for (time, group) in found {
        let start = bucket.start(time);
        if let Some(sum) = sums.iter_mut().find(|sum| sum.start == start) {
            sum.orphans += group.orphans;
            sum.strays += group.strays;
            sum.unregistered += group.unregistered;
            sum.hours += group.process_hours;
            sum.memory = sum.memory.saturating_add(group.rss_bytes);
        }
    }
    Some((bucket, sums))
}

/// Returns empty slots, or `None` if there would be too many; with years, returns the last ones
/// instead.
fn empty(bucket: TimeBucket, first: NaiveDateTime, last: NaiveDateTime) -> Option<Vec<Sum>> {
    let first = match bucket {
        TimeBucket::Year => {
            first.max(last.checked_sub_months(Months::new(12 * 100)).unwrap_or(first))
        }
        _ => first,
    };
    let starts = std::iter::successors(Some(bucket.start(first)), |start| bucket.next(*start));
    let sums: Vec<Sum> = starts
        .take_while(|start| *start <= last)
        .take(MOST_SLOTS + 1)
        .map(|start| Sum { start, orphans: 0, strays: 0, unregistered: 0, hours: 0.0, memory: 0 })
        .collect();
    (sums.len() <= MOST_SLOTS).then_some(sums)
}

fn leaks(bucket: TimeBucket, sums: &[Sum]) -> Chart {
    let parts = |sum: &Sum| {
        vec![("orphans", sum.orphans), ("strays", sum.strays), ("unregistered", sum.unregistered)]
    };
    let count = |sum: &Sum| sum.orphans + sum.strays + sum.unregistered;
    let top = nice(sums.iter().map(count).max().unwrap_or(0).max(2) as f64);
    let describe = |sum: &Sum| {
        let parts: Vec<String> = (parts(sum).into_iter().filter(|(_, count)| *count > 0))
            .map(|(kind, count)| format!("{} {kind}", thousands(count)))
            .collect();
        match count(sum) {
            0 => "none".to_owned(),
            all => format!("{} ({})", counted(all, "leak", "leaks"), parts.join(", ")),
        }
    };
    let legend = ["orphans", "strays", "unregistered"].into_iter();
    let seen =
        |kind: &&str| sums.iter().flat_map(parts).any(|(other, count)| other == *kind && count > 0);
    let all: u64 = sums.iter().map(count).sum();
    Chart {
        id: "chart-leaks",
        name: format!("Leaks in each {}", bucket.word()),
        summary: summary(bucket, sums, &counted(all, "leak", "leaks"), describe, |sum| {
            count(sum) as f64
        }),
        legend: legend.filter(seen).collect(),
        scale: scale(top, |value| format!("{value:.0}")),
        times: times(bucket, sums),
        slots: draw(bucket, sums, top, describe, |sum| {
            parts(sum).into_iter().map(|(kind, count)| (kind, count as f64)).collect()
        }),
    }
}

fn hours(bucket: TimeBucket, sums: &[Sum]) -> Chart {
    let top = nice(sums.iter().map(|sum| sum.hours).fold(0.0, f64::max));
    let describe = |sum: &Sum| Figure::hours(sum.hours).shown + " process-hours";
    let all = Figure::hours(sums.iter().map(|sum| sum.hours).sum()).shown + " process-hours";
    Chart {
        id: "chart-hours",
        name: format!("Process-hours in each {}", bucket.word()),
        summary: summary(bucket, sums, &all, describe, |sum| sum.hours),
        legend: Vec::new(),
        scale: scale(top, |value| {
            let shown = Figure::hours(value).shown;
            shown.strip_suffix(".0").map_or(shown.clone(), ToOwned::to_owned)
        }),
        times: times(bucket, sums),
        slots: draw(bucket, sums, top, describe, |sum| vec![("plain", sum.hours)]),
    }
}

fn memory(bucket: TimeBucket, sums: &[Sum]) -> Chart {
    let most = sums.iter().map(|sum| sum.memory).max().unwrap_or(0);
    // A round number in the unit in which it is shown.
    let unit =
        (0..6).map(|power| 1024_f64.powi(power)).take_while(|unit| *unit <= most as f64).last();
    let unit = unit.unwrap_or(1.0);
    let top = nice(most as f64 / unit) * unit;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, rounded")]
    let size = |value: f64| Figure::memory(Some(value as u64)).shown.replace(".0 ", " ");
    let describe = |sum: &Sum| Figure::memory(Some(sum.memory)).shown;
    let all = sums.iter().fold(0_u64, |all, sum| all.saturating_add(sum.memory));
    Chart {
        id: "chart-memory",
        name: format!("Memory held in each {}", bucket.word()),
        summary: summary(bucket, sums, &Figure::memory(Some(all)).shown, describe, |sum| {
            sum.memory as f64
        }),
        legend: Vec::new(),
        scale: scale(top, size),
        times: times(bucket, sums),
        slots: draw(bucket, sums, top, describe, |sum| vec![("plain", sum.memory as f64)]),
    }
}

/// Returns the smallest of 1, 2, 4, 6, 8 and 10 times a power of ten that is not below `most`: half
/// of it is round as well.
fn nice(most: f64) -> f64 {
    if most <= 0.0 || !most.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let factor = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().find(|factor| factor * power >= most);
    factor.unwrap_or(10.0) * power
}

fn scale(top: f64, shown: impl Fn(f64) -> String) -> Vec<String> {
    vec![shown(top), shown(top / 2.0), "0".to_owned()]
}

/// Returns the labels of the first, middle and last slot.
fn times(bucket: TimeBucket, sums: &[Sum]) -> Vec<String> {
    let at = |index: usize| sums.get(index).map(|sum| bucket.label(sum.start));
    let marks: &[usize] = match sums.len() {
        0 | 1 => &[0],
        2 => &[0, 1],
        all => &[0, (all - 1) / 2, all - 1],
    };
    marks.iter().filter_map(|&index| at(index)).collect()
}

fn summary(
    bucket: TimeBucket,
    sums: &[Sum],
    all: &str,
    describe: impl Fn(&Sum) -> String,
    height: impl Fn(&Sum) -> f64,
) -> String {
    let highest = sums.iter().max_by(|a, b| height(a).total_cmp(&height(b)));
    let ends = sums.first().zip(sums.last());
    match (ends, highest) {
        (Some((first, last)), Some(highest)) => format!(
            "From {} to {} {all} in all; maximum in the {} of {}: {}.",
            bucket.label(first.start),
            bucket.label(last.start),
            bucket.word(),
            bucket.label(highest.start),
            describe(highest)
        ),
        _ => all.to_owned(),
    }
}

fn draw(
    bucket: TimeBucket,
    sums: &[Sum],
    top: f64,
    describe: impl Fn(&Sum) -> String,
    parts: impl Fn(&Sum) -> Vec<(&'static str, f64)>,
) -> Vec<Slot> {
    let width = WIDTH / sums.len().max(1) as f64;
    // Limit the width: one or two bars as wide as the page would look like walls.
    let bar = (width * FILLED).min(WIDTH / 16.0);
    let number = |number: f64| format!("{number:.2}");
    (sums.iter().enumerate())
        .map(|(index, sum)| {
            let x = index as f64 * width;
            let mut y = HEIGHT;
            let bars =
                parts(sum).into_iter().filter(|(_, value)| *value > 0.0).map(|(class, value)| {
                    let height = value / top * HEIGHT;
                    y -= height;
                    let x = number(x + (width - bar) / 2.0);
                    Bar { class, x, y: number(y), width: number(bar), height: number(height) }
                });
            let bars = bars.collect();
            let title = format!("{}: {}", bucket.label(sum.start), describe(sum));
            Slot { x: number(x), width: number(width), title, bars }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DAY: i64 = 86_400_000;
    /// 2025-01-10T12:34:56Z
    const NOW: i64 = 1_736_512_496_000;

    fn at(unix_millis: i64) -> SystemTime {
        let span = Duration::from_millis(unix_millis.unsigned_abs());
        if unix_millis < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
    }

    fn found(last_found_at: SystemTime, orphans: u64) -> LeakGroup {
        LeakGroup {
            key: String::new(),
            leaks: orphans,
            orphans,
            strays: 0,
            unregistered: 0,
            survived: 0,
            process_hours: 0.5,
            rss_bytes: 3 << 20,
            last_found_at,
        }
    }

    #[test]
    fn buckets_grow_with_the_window() {
        for (days, bucket, count) in [
            (1, TimeBucket::Hour, 25),
            (7, TimeBucket::Day, 8),
            (90, TimeBucket::Day, 91),
            (365, TimeBucket::Week, 53),
            // January 2020 to January 2025, both included; then 1984 to 2025.
            (5 * 366, TimeBucket::Month, 61),
            (40 * 366, TimeBucket::Year, 42),
        ] {
            let since = Some(at(NOW - days * DAY));
            let (found, slots) = slots(&[found(at(NOW), 1)], since, at(NOW)).expect("slots");
            assert_eq!((found, slots.len()), (bucket, count), "{days} days");
        }
    }

    #[test]
    fn a_chart_contains_every_leak() {
        let groups: Vec<LeakGroup> = (0..30).map(|day| found(at(NOW - day * DAY), 2)).collect();
        let (_, slots) = slots(&groups, None, at(NOW)).expect("slots");
        assert_eq!(slots.len(), 30);
        assert!(slots.iter().all(|sum| sum.orphans == 2), "{slots:?}");
    }

    #[test]
    fn a_chart_of_impossible_times_can_be_drawn() {
        assert!(charts(&[], None, at(NOW)).is_empty());
        assert!(charts(&[found(at(i64::MAX), 1)], None, at(NOW)).is_empty());
        let odd = [
            found(at(i64::MIN), 1),
            found(at(NOW + 400 * DAY), 1),
            found(at(-62_000_000_000_000), 1),
        ];
        for since in [None, Some(at(i64::MIN)), Some(at(NOW))] {
            for chart in charts(&odd, since, at(NOW)) {
                assert!(chart.slots.len() <= MOST_SLOTS, "{chart:?}");
            }
        }
    }

    #[test]
    fn a_scale_is_round_and_its_half_too() {
        for (most, top) in
            [(0.0, 1.0), (1.0, 1.0), (3.0, 4.0), (5.0, 6.0), (97.0, 100.0), (0.03, 0.04)]
        {
            assert!((nice(most) - top).abs() < 1e-9, "{most}: {}", nice(most));
        }
    }

    #[test]
    fn a_chart_has_a_text_description() {
        let groups = [found(at(NOW - DAY), 5), found(at(NOW), 1)];
        let chart = charts(&groups, Some(at(NOW - 3 * DAY)), at(NOW)).remove(0);
        assert!(chart.name == "Leaks in each hour" || chart.name == "Leaks in each day");
        assert!(
            chart.summary.contains("6 leaks in all")
                && chart.summary.contains("5 leaks (5 orphans)"),
            "{}",
            chart.summary
        );
        assert_eq!(chart.scale, ["6", "3", "0"]);
        assert_eq!(chart.legend, ["orphans"]);
    }
}
