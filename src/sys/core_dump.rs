//! Determines whether a process that was ended by a signal has dumped core.

use std::os::{fd::AsFd, unix::process::ExitStatusExt};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::PidFd;

impl PidFd {
    /// Returns whether the process, which was ended by a signal, has dumped core; `None` if the
    /// kernel does not report it: before Linux 6.15 it does so only for a child of ours that was
    /// not reaped.
    pub(crate) fn has_dumped_core(&self) -> Option<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.as_fd()), options) {
            Ok(Some(status)) => Some(status.dumped()),
            _ => self.wait_status().map(|status| status.core_dumped()),
        }
    }
}
