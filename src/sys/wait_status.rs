//! The status of a dead child as wait(2) packs it, and whether the child has dumped its core.

use std::os::fd::AsFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{ExitStatus, PidFd};

/// The flag of a core dump.
pub(in crate::sys) const WAIT_CORE: i32 = 0x80;

/// Decodes a packed status.
pub(super) fn wait_status(raw: i32) -> ExitStatus {
    match raw & 0x7f {
        0 => ExitStatus::Exited((raw >> 8) & 0xff),
        signal => ExitStatus::Signaled(signal),
    }
}

impl PidFd {
    /// Returns whether the process, which was ended by a signal, has dumped its core; `None` where the kernel does not report it:
    /// it was not our child, or was reaped before Linux 6.15.
    pub(crate) fn has_dumped_core(&self) -> Option<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.as_fd()), options) {
            Ok(Some(status)) => Some(status.dumped()),
            _ => self.exit_code().map(|raw| raw & WAIT_CORE != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_unpacked() {
        assert_eq!(wait_status(0x0300), ExitStatus::Exited(3));
        assert_eq!(wait_status(9), ExitStatus::Signaled(9));
        assert_eq!(wait_status(0x8b), ExitStatus::Signaled(11));
    }
}
