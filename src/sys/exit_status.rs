//! How a process ended.

use serde::Serialize;

/// How a process ended, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called exit(3) with this code, 0 to 255.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
    /// It is dead, and its status is unknown: it was not our child, or the host reaped it.
    Unobserved,
}

impl ExitStatus {
    pub(super) fn new(code: Option<i32>, signal: Option<i32>) -> Self {
        let exited = code.map(Self::Exited);
        exited.or(signal.map(Self::Signaled)).unwrap_or(Self::Unobserved)
    }

    /// Returns whether it exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// Returns the exit code, where it called exit(3).
    pub fn code(self) -> Option<i32> {
        if let Self::Exited(code) = self { Some(code) } else { None }
    }

    /// Returns the signal, where one ended it.
    pub fn signal(self) -> Option<i32> {
        if let Self::Signaled(signal) = self { Some(signal) } else { None }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
            Self::Unobserved => f.write_str("unobserved"),
        }
    }
}
