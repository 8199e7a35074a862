//! Calendar intervals, in UTC.

use chrono::{
    Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Weekday,
};

/// The length of a chart's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeBucket {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl TimeBucket {
    /// All buckets, finest first.
    pub(super) const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Returns the start of the slot that contains a time.
    pub(super) fn start(self, time: NaiveDateTime) -> NaiveDateTime {
        let date = time.date();
        let start = match self {
            Self::Hour => return date.and_hms_opt(time.hour(), 0, 0).unwrap_or(time),
            Self::Day => Some(date),
            Self::Week => Some(date.week(Weekday::Mon).first_day()),
            Self::Month => date.with_day(1),
            Self::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        };
        start.unwrap_or(date).and_time(NaiveTime::MIN)
    }

    pub(super) fn next(self, start: NaiveDateTime) -> Option<NaiveDateTime> {
        match self {
            Self::Hour => start.checked_add_signed(TimeDelta::hours(1)),
            Self::Day => start.checked_add_days(Days::new(1)),
            Self::Week => start.checked_add_days(Days::new(7)),
            Self::Month => start.checked_add_months(Months::new(1)),
            Self::Year => start.checked_add_months(Months::new(12)),
        }
    }

    pub(super) fn label(self, start: NaiveDateTime) -> String {
        let format = match self {
            Self::Hour => "%d %b %H:00",
            Self::Day | Self::Week => "%d %b %Y",
            Self::Month => "%b %Y",
            Self::Year => "%Y",
        };
        start.format(format).to_string().trim_start_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_the_bucket_that_starts_at_or_before_it() {
        let time = NaiveDate::from_ymd_opt(2025, 3, 31).and_then(|day| day.and_hms_opt(23, 59, 59));
        let time = time.expect("a time");
        for (bucket, start, next) in [
            (TimeBucket::Hour, "31 Mar 23:00", "1 Apr 00:00"),
            (TimeBucket::Day, "31 Mar 2025", "1 Apr 2025"),
            (TimeBucket::Week, "31 Mar 2025", "7 Apr 2025"),
            (TimeBucket::Month, "Mar 2025", "Apr 2025"),
            (TimeBucket::Year, "2025", "2026"),
        ] {
            let begins = bucket.start(time);
            let ends = bucket.next(begins).expect("a time");
            assert!(begins <= time && time < ends, "{bucket:?}");
            assert_eq!((bucket.label(begins).as_str(), bucket.label(ends).as_str()), (start, next));
        }
    }
}
