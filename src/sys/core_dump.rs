//! Whether a process that was ended by a signal has dumped its core.

use std::os::{fd::AsFd, unix::process::ExitStatusExt};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::PidFd;

impl PidFd {
    /// Returns whether the process, which was ended by a signal, has dumped its core; `None` where the kernel does not report it:
    /// it was not our child, or was reaped before Linux 6.15.
    pub(crate) fn has_dumped_core(&self) -> Option<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.as_fd()), options) {
            Ok(Some(status)) => Some(status.dumped()),
            _ => self.wait_status().map(|status| status.core_dumped()),
        }
    }
}
