//! Queries the kernel about a process by its pidfd (`PIDFD_GET_INFO`, Linux 6.13; `linux/pidfd.h`).

#![expect(unsafe_code, reason = "an ioctl without a wrapper")]

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    process,
};

use super::{ExitStatus, PidFd, Pinned, Proc};
use crate::error::Result;

/// `struct pidfd_info`, its first published size.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    thread_group: u32,
    parent: u32,
    real_uid: u32,
    real_gid: u32,
    effective_uid: u32,
    /// Groups and saved ids.
    others: [u32; 5],
    exit_code: i32,
}

const CREDENTIALS: u64 = 1 << 1;
const EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with 64 bytes.
const GET_INFO: libc::Ioctl = 0xC040_FF0B;
const _: () = assert!(size_of::<Info>() == 64, "the ioctl's number holds this size");

impl PidFd {
    fn info(&self, wanted: u64) -> Option<Info> {
        let mut info = Info { mask: wanted, ..Info::default() };
        // SAFETY: `GET_INFO` encodes the size of `Info`; the kernel writes at most that many bytes.
        let result = unsafe { libc::ioctl(self.as_fd().as_raw_fd(), GET_INFO, &raw mut info) };
        (result == 0 && info.mask & wanted != 0).then_some(info)
    }

    /// Returns the status of a reaped process, which the kernel keeps (Linux 6.15). It is available
    /// only after the process was reaped.
    pub(crate) fn exit_info(&self) -> Option<ExitStatus> {
        self.wait_status().map(ExitStatus::from)
    }

    /// Returns the same status, with the flag of a core dump.
    pub(super) fn wait_status(&self) -> Option<process::ExitStatus> {
        self.info(EXIT).map(|info| process::ExitStatus::from_raw(info.exit_code))
    }
}

impl Pinned {
    /// Returns the effective uid; `None` if the process is gone. This takes one call if the kernel
    /// supports it; otherwise a file is read and parsed.
    pub(crate) fn uid(&self, proc: &Proc) -> Result<Option<u32>> {
        match self.fd.info(CREDENTIALS) {
            Some(info) => Ok(Some(info.effective_uid)),
            None => proc.uid(self.identity.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::Pid, sys::current_pid_scope};

    #[test]
    fn the_kernel_reports_the_same_uid_by_pidfd_and_by_proc() {
        let proc = Proc::open().expect("/proc");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let me = Pinned::open(&proc, current_pid_scope().expect("a scope"), own).expect("a lookup");
        let uid = me.expect("alive").uid(&proc).expect("an answer");
        assert_eq!(uid, proc.uid(own).expect("an answer"));
        assert_eq!(uid, Some(rustix::process::geteuid().as_raw()));
    }
}
