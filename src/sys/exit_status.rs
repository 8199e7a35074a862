//! How a process ended.

use std::{os::unix::process::ExitStatusExt, process};

use serde::Serialize;

use crate::error::{Error, Kind};

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

    /// Returns the exit code, if it called exit(3).
    pub fn code(self) -> Option<i32> {
        if let Self::Exited(code) = self { Some(code) } else { None }
    }

    /// Returns the signal, if one ended it.
    pub fn signal(self) -> Option<i32> {
        if let Self::Signaled(signal) = self { Some(signal) } else { None }
    }
}

/// How a process died, as a keeper reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) status: ExitStatus,
    pub(crate) dumped_core: bool,
}

impl From<process::ExitStatus> for Death {
    fn from(status: process::ExitStatus) -> Self {
        Self { status: status.into(), dumped_core: status.core_dumped() }
    }
}

/// Converts a status that [`std::process`] reported. The status of a process that was only stopped
/// or continued becomes `Unobserved`.
impl From<process::ExitStatus> for ExitStatus {
    fn from(status: process::ExitStatus) -> Self {
        Self::new(status.code(), status.signal())
    }
}

/// Fails for `Unobserved`, which [`std::process`] cannot represent.
impl TryFrom<ExitStatus> for process::ExitStatus {
    type Error = Error;

    fn try_from(status: ExitStatus) -> Result<Self, Error> {
        // As wait(2) packs it.
        match status {
            ExitStatus::Exited(code) => Ok(Self::from_raw((code & 0xff) << 8)),
            ExitStatus::Signaled(signal) => Ok(Self::from_raw(signal & 0x7f)),
            ExitStatus::Unobserved => {
                Err(Error::new(Kind::Unknown, "the exit status was not observed"))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_unpacked() {
        let unpacked = |raw| Death::from(process::ExitStatus::from_raw(raw));
        let death = |status, dumped_core| Death { status, dumped_core };
        assert_eq!(unpacked(0x0300), death(ExitStatus::Exited(3), false));
        assert_eq!(unpacked(9), death(ExitStatus::Signaled(9), false));
        assert_eq!(unpacked(0x8b), death(ExitStatus::Signaled(11), true));
    }
}
