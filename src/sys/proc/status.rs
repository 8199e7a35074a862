//! `/proc/PID/status`: the users and PID namespaces of a process, its tracer, and its memory.

use super::{BUFFER, Proc, number};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
};

/// Maximum size of the file, which has some sixty lines.
const LIMIT: usize = 16 << 10;

/// The used fields of `/proc/PID/status` (`proc_pid_status(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) real_uid: u32,
    pub(crate) effective_uid: u32,
    pub(crate) saved_uid: u32,
    /// Its pid in each PID namespace that it is in, from the one that this `/proc` shows down;
    /// empty before Linux 4.1.
    pub(crate) namespace_pids: Vec<u32>,
    /// The process that this thread belongs to.
    thread_group: Option<Pid>,
    /// The thread that traces it.
    tracer: Option<Pid>,
    memory: Memory,
}

/// The memory of a process according to `status`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// `VmRSS`: all of its resident pages, including shared ones.
    pub(crate) resident: u64,
    /// `RssAnon`: the part of it that belongs to no file and no shared memory (Linux 4.5).
    pub(crate) anonymous: u64,
    /// `VmSwap`.
    pub(crate) swapped: u64,
}

impl Status {
    /// Parses the text; `None` if a line that every kernel writes is missing.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut uids = words(text, b"Uid:").map_while(number);
        let pid = |label| words(text, label).next().and_then(number::<i64>).and_then(Pid::new);
        let bytes = |label| kilobytes(text, label).unwrap_or(0);
        Some(Self {
            real_uid: uids.next()?,
            effective_uid: uids.next()?,
            saved_uid: uids.next()?,
            namespace_pids: words(text, b"NSpid:").map_while(number).collect(),
            thread_group: pid(b"Tgid:"),
            tracer: pid(b"TracerPid:"),
            memory: Memory {
                resident: bytes(b"VmRSS:"),
                anonymous: bytes(b"RssAnon:"),
                swapped: bytes(b"VmSwap:"),
            },
        })
    }

    /// Returns the uid if all uids of the process are the same. `None` for a process that can
    /// become another user again, such as a daemon of root that has temporarily switched to a user:
    /// that user cannot signal it (kill(2)).
    pub(crate) fn only_uid(&self) -> Option<u32> {
        let uid = self.effective_uid;
        (self.real_uid == uid && self.saved_uid == uid).then_some(uid)
    }

    /// Reports whether it is in a PID namespace below the one that this `/proc` shows.
    pub(crate) fn is_in_nested_namespace(&self) -> bool {
        self.namespace_pids.len() > 1
    }
}

impl Proc {
    /// Returns the status of a process; `None` if it is gone.
    pub(crate) fn status(&self, pid: Pid) -> Result<Option<Status>> {
        BUFFER.with_borrow_mut(|buffer| {
            if !self.read(pid, "status", buffer, LIMIT)? {
                return Ok(None);
            }
            Status::parse(buffer).map(Some).ok_or_else(|| {
                Error::new(Kind::Unknown, format!("failed to parse `/proc/{pid}/status`"))
            })
        })
    }

    /// Returns the effective uid; `None` if the process is gone.
    pub(crate) fn uid(&self, pid: Pid) -> Result<Option<u32>> {
        Ok(self.status(pid)?.map(|status| status.effective_uid))
    }

    /// Reports whether a process acts as this user; `false` if it is gone or cannot be read.
    pub(crate) fn is_of(&self, pid: Pid, uid: u32) -> bool {
        // The owner of the folder is the effective user, or root if the process is not dumpable
        // (proc_pid(5)). Then the status is read, which takes longer.
        let folder = rustix::fs::statat(&self.dir, pid.to_string(), rustix::fs::AtFlags::empty());
        folder.is_ok_and(|folder| folder.st_uid == uid)
            || self.uid(pid).is_ok_and(|found| found == Some(uid))
    }

    /// Returns the process that traces this one (`ptrace(2)`). `TracerPid` is the thread that
    /// traces, which need not be the leading thread of a debugger.
    pub(crate) fn tracer(&self, pid: Pid) -> Option<Pid> {
        let thread = self.status(pid).ok()??.tracer?;
        self.status(thread).ok()??.thread_group
    }

    /// Returns the memory of a process, according to the cheap figures; `None` if it is gone. A
    /// zombie uses none.
    pub(crate) fn memory(&self, pid: Pid) -> Result<Option<Memory>> {
        let Some(Status { memory, .. }) = self.status(pid)? else { return Ok(None) };
        if memory != Memory::default() {
            return Ok(Some(memory));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let living = self.read_of_living_thread(pid, "status", buffer, LIMIT);
            let thread = if living { Status::parse(buffer) } else { None };
            Ok(Some(thread.map_or(memory, |thread| thread.memory)))
        })
    }
}

/// Returns the words of the line that begins with `label`. The first line contains the name of the
/// process, in which a newline is escaped.
fn words<'a>(text: &'a [u8], label: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(label));
    line.unwrap_or_default().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Returns the value of a line such as `VmRSS:      1234 kB`, in bytes.
pub(super) fn kilobytes(text: &[u8], label: &[u8]) -> Option<u64> {
    number::<u64>(words(text, label).next()?)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that every kernel writes.
    const UIDS: &str = "Uid:\t0\t0\t0\t0\n";

    fn parse(text: &str) -> Status {
        Status::parse(format!("{text}{UIDS}").as_bytes()).expect("parsed")
    }

    #[test]
    fn uids_and_namespaces_are_read_from_their_lines() {
        let found =
            parse("Name:\tx\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\nNSpid:\t42\t7\t1\nX:\t1\n");
        assert_eq!((found.real_uid, found.effective_uid, found.saved_uid), (1000, 1001, 1002));
        assert_eq!((found.only_uid(), found.is_in_nested_namespace()), (None, true));
        assert_eq!(found.namespace_pids, [42, 7, 1]);
        let plain = parse("Name:\tUid: 3\nUid:\t0\t0\t0\t0\nNSpid:\t42\n");
        assert_eq!((plain.only_uid(), plain.is_in_nested_namespace()), (Some(0), false));
        assert_eq!(plain.namespace_pids, [42]);
        assert_eq!(parse("Name:\tNSpid: 3\n").namespace_pids, [0_u32; 0]);
        assert_eq!(Status::parse(b"Name:\tUid: 3 4\n"), None);
        assert_eq!(Status::parse(b"Uid:\t3\t4\n"), None);
    }

    #[test]
    fn a_tracer_is_reported() {
        let tracer = |text: &str| parse(text).tracer.map(Pid::get);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t812\nUid:\t0\t0\t0\t0\n"), Some(812));
        assert_eq!(tracer("Name:\tTracerPid: 3\nTracerPid:\t0\n"), None);
        assert_eq!(tracer(""), None);
    }

    #[test]
    fn memory_is_read_from_its_lines_and_a_zombie_has_none() {
        let status = "Name:\tVmRSS: 7 kB\nVmHWM:\t  900 kB\nVmRSS:\t  800 kB\nRssAnon:\t 700 kB\n\
            RssFile:\t 100 kB\nVmSwap:\t  50 kB\n";
        let found = Memory { resident: 800 << 10, anonymous: 700 << 10, swapped: 50 << 10 };
        assert_eq!(parse(status).memory, found);
        assert_eq!(parse("Name:\tx\nState:\tZ (zombie)\n").memory, Memory::default());
    }

    #[test]
    fn a_missing_or_malformed_number_is_not_replaced() {
        assert_eq!(kilobytes(b"VmRSS:\t kB\n", b"VmRSS:"), None);
        assert_eq!(kilobytes(b"VmRSS:\t -1 kB\n", b"VmRSS:"), None);
        assert_eq!(kilobytes(b"VmRSS:\t 18446744073709551615 kB\n", b"VmRSS:"), None);
    }

    #[test]
    fn this_process_belongs_to_its_user() {
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let found = Proc::open().expect("/proc").status(own).expect("read").expect("there");
        assert_eq!(found.effective_uid, rustix::process::geteuid().as_raw());
        assert!(!found.is_in_nested_namespace());
        assert_eq!(found.thread_group, Some(own));
    }
}
