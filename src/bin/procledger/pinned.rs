//! A process of the ledger pinned by a verified pidfd.
//!
//! `demo` observes processes from outside, as a person would: the tracker that started them is the
//! one that it crashes.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use procledger::{Identity, ProcessRecord};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::poll::poll_within;

/// A pidfd of exactly the process that the ledger names.
#[derive(Debug)]
pub(crate) struct PinnedProcess(OwnedFd);

impl AsFd for PinnedProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PinnedProcess {
    /// Returns `None` if the process is gone, or its PID is reused.
    pub(crate) fn of(record: &ProcessRecord) -> io::Result<Option<Self>> {
        let identity = &record.spec.identity;
        let Some(pid) = raw(identity) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the pidfd was opened: a reuse of the PID before that is detected here.
        let stat = match fs::read(format!("/proc/{}/stat", identity.pid)) {
            Ok(stat) => stat,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let inode = rustix::fs::fstat(&pidfd)?.st_ino;
        let same = start_tick(&stat) == Some(identity.start_tick)
            && identity.pidfd_inode.is_none_or(|recorded| recorded == inode);
        Ok(same.then_some(Self(pidfd)))
    }

    /// Opens a pidfd of a child that was not waited for: its PID cannot be reused until then.
    pub(crate) fn of_child(child: &std::process::Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(pidfd_send_signal(&self.0, signal)?)
    }

    /// Returns whether the process ends within `timeout`, according to the pidfd, for which a
    /// zombie has ended.
    pub(crate) fn has_ended(&self, timeout: Duration) -> io::Result<bool> {
        Ok(poll_within(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(timeout))? > 0)
    }
}

fn raw(identity: &Identity) -> Option<Pid> {
    i32::try_from(identity.pid.get()).ok().and_then(Pid::from_raw)
}

/// Parses field 22 of `proc_pid_stat(5)`. The name in field 2 may contain any byte; it ends at the
/// last parenthesis.
fn start_tick(stat: &[u8]) -> Option<u64> {
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after..)?).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n";
        assert_eq!(start_tick(stat), Some(4711));
        assert_eq!(start_tick(b"7 (a"), None);
        assert_eq!(start_tick(b""), None);
    }
}
