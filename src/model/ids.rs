//! Task ids and row numbers.

use serde::Serialize;

use crate::error::{Error, Result};

/// Longest task id, in bytes: long enough for any path or URL, short enough for an index.
pub const TASK_ID_MAX: usize = 1024;

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

/// Formats the id for messages and logs: characters that could move a terminal's cursor, break a
/// line or change its direction are escaped. [`as_str`](TaskId::as_str) returns the text itself.
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

/// Returns the task as it is named in messages.
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
