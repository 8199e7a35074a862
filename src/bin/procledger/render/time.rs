//! Points in time, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};

/// Returns the milliseconds since the Unix epoch; negative before it.
pub(crate) fn unix_millis(time: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -whole(before.duration()), whole)
}

/// Returns its date; `None` for one that the calendar cannot represent, which a damaged ledger may
/// contain.
pub(crate) fn calendar(time: SystemTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(unix_millis(time))
}

/// Formats a time as `2025-01-10T12:34:56.789Z` (RFC 3339), or as Unix milliseconds if the calendar
/// cannot represent it.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let text = |date: DateTime<Utc>| date.to_rfc3339_opts(SecondsFormat::Millis, true);
    calendar(time).map_or_else(|| unix_millis(time).to_string(), text)
}

/// Formats a time as `2025-01-10 12:34:56Z`.
pub(crate) fn clock(time: SystemTime) -> String {
    let text = rfc3339(time);
    text.get(..19).map_or_else(|| text.clone(), |text| text.replace('T', " ") + "Z")
}

/// Returns the time since `earlier`; zero if the clock was set back between them.
pub(crate) fn since(now: SystemTime, earlier: SystemTime) -> Duration {
    now.duration_since(earlier).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_utc() {
        let time = UNIX_EPOCH + Duration::from_millis(1_736_512_496_789);
        assert_eq!(rfc3339(time), "2025-01-10T12:34:56.789Z");
        assert_eq!(clock(time), "2025-01-10 12:34:56Z");
        assert_eq!(clock(UNIX_EPOCH - Duration::from_millis(1)), "1969-12-31 23:59:59Z");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_a_number() {
        let far = Duration::from_millis(i64::MAX.unsigned_abs());
        assert_eq!(rfc3339(UNIX_EPOCH + far), i64::MAX.to_string());
        assert_eq!(rfc3339(UNIX_EPOCH - far), (-i64::MAX).to_string());
    }
}
