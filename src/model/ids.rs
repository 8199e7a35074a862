//! Times, names and numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::error::{Error, Result};

/// Longest task id, in bytes: long enough for any path or URL, short enough for an index.
pub const TASK_ID_MAX: usize = 1024;

/// Unix time in whole milliseconds, as the ledger stores it. Public types have a [`SystemTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) i64);

impl Millis {
    /// Returns the current wall clock time.
    pub(crate) fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Formats it as RFC 3339 in UTC with milliseconds, as `2025-01-10T12:34:56.000Z`.
    pub(crate) fn to_rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_millis(self.0).map_or_else(
            || self.0.to_string(),
            |time| time.to_rfc3339_opts(SecondsFormat::Millis, true),
        )
    }

    /// Returns the time since `earlier`; zero where the clock was set back between them.
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

/// The caller's unit of work: 1 to [`TASK_ID_MAX`] bytes without NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// Checks a task id.
    ///
    /// # Errors
    ///
    /// Invalid input when it is empty, longer than [`TASK_ID_MAX`] bytes or contains a NUL byte.
    pub fn new(id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        if id.is_empty() {
            return Err(Error::invalid("the task id is empty: name the unit of work"));
        }
        if id.len() > TASK_ID_MAX {
            return Err(Error::invalid(format!(
                "the task id has {} bytes: at most {TASK_ID_MAX} are allowed",
                id.len()
            )));
        }
        if id.contains('\0') {
            return Err(Error::invalid(format!("the task id {id:?} contains a NUL byte")));
        }
        Ok(Self(id))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people: characters that could move a terminal's cursor, break a line or change its direction are escaped, since this
/// ends up in messages and logs. [`as_str`](TaskId::as_str) returns the text itself.
impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|char| match u32::from(char) {
            code @ (0..0x20 | 0x7f) => write!(f, "\\x{code:02x}"),
            code @ (0x80..0xa0 | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069) => {
                write!(f, "\\u{{{code:x}}}")
            }
            _ => std::fmt::Write::write_char(f, char),
        })
    }
}

/// Returns the name of the task for messages.
pub(crate) fn task_text(task: Option<&TaskId>) -> String {
    task.map_or_else(|| "(none)".to_owned(), ToString::to_string)
}

/// Row number of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(pub i64);

/// Row number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ProcessId(pub i64);
