//! Times and spans in whole milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

/// Unix time in whole milliseconds, as the ledger stores it. Public types have a [`SystemTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) i64);

impl Millis {
    /// Returns the current wall clock time.
    pub(crate) fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Formats the time as RFC 3339 in UTC with milliseconds, such as `2025-01-10T12:34:56.000Z`.
    pub(crate) fn to_rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_millis(self.0).map_or_else(
            || self.0.to_string(),
            |time| time.to_rfc3339_opts(SecondsFormat::Millis, true),
        )
    }

    /// Returns the time since `earlier`; zero if the clock was set back in between.
    pub(crate) fn since(self, earlier: impl Into<Self>) -> Duration {
        let span = self.0.saturating_sub(earlier.into().0);
        Duration::from_millis(u64::try_from(span).unwrap_or(0))
    }

    /// Returns this time minus `span`.
    pub(crate) fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

impl From<Millis> for SystemTime {
    fn from(Millis(time): Millis) -> Self {
        let span = Duration::from_millis(time.unsigned_abs());
        if time < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
    }
}

/// Converts a span to whole milliseconds, as the ledger stores it.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Serializes a time as Unix milliseconds.
pub(crate) fn unix_millis<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(Millis::from(*time).0)
}

pub(super) fn whole_millis<S: Serializer>(
    span: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(millis(*span))
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn whole_millis_or_null<S: Serializer>(
    span: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    span.map(millis).serialize(serializer)
}
