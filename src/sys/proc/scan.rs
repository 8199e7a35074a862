//! Scans of all of `/proc`.
//!
//! With many processes two threads share the work: most of the cost is in the kernel, which
//! generates a file for each process, and does so for both threads at the same time. Each thread
//! has one buffer.

use std::mem::MaybeUninit;

use rustix::{
    fs::{Mode, OFlags, RawDir},
    io::Errno,
};

use super::{
    BUFFER, ENVIRON_LIMIT, PATH_SPACE, Proc, number, path_of,
    snapshot::Snapshot,
    stat::{Stat, this_tick},
};
use crate::{
    error::{Error, Result},
    identity::Pid,
};

/// Up to this number of processes, starting a second thread would take longer than it saves: a
/// process takes 5 µs, a thread some 100 µs.
const FEW: usize = 256;
/// Longest path (`PATH_MAX` in `linux/limits.h`).
const LONGEST_PATH: usize = 4096;

impl Proc {
    /// Returns the pids of all visible processes.
    pub(crate) fn pids(&self) -> Result<Vec<Pid>> {
        let failed = |error: Errno| Error::os("failed to list `/proc`", error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Opened anew, since the shared descriptor has a single offset, and several threads may
        // list at the same time.
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty()).map_err(failed)?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut entries = RawDir::new(dir, &mut buffer);
        let mut pids = Vec::with_capacity(512);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            pids.extend(number::<i64>(entry.file_name().to_bytes()).and_then(Pid::new));
        }
        Ok(pids)
    }

    /// Returns every process that is visible now.
    ///
    /// The snapshot is not atomic: a process that is forked meanwhile may be missing. Callers
    /// repeat it until nothing is new. A lack of descriptors or memory is an error, since it would
    /// be unknown which processes are missing.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let began = this_tick();
        // A process that may not be read is left out, so it never becomes a member and is never
        // signalled.
        let read = |pid| -> Result<Option<Stat>> { unless_busy(self.stat(pid)) };
        Ok(Snapshot::new(collect(&self.pids()?, read)?).begun_at(began))
    }

    /// Returns the processes with one of these texts in their arguments or in the path of their
    /// executable.
    pub(crate) fn mentioning(&self, texts: &[&[u8]]) -> Result<Vec<Pid>> {
        collect(&self.pids()?, |pid| Ok(self.mentions(pid, texts)?.then_some(pid)))
    }

    fn mentions(&self, pid: Pid, texts: &[&[u8]]) -> Result<bool> {
        let is_in = |bytes: &[u8]| texts.iter().any(|text| contains(bytes, text));
        let in_arguments = BUFFER.with_borrow_mut(|buffer| {
            let read = self.read_of_memory(pid, "cmdline", buffer, ENVIRON_LIMIT).map(Some);
            Ok(unless_busy(read)? == Some(true) && is_in(buffer))
        })?;
        Ok(in_arguments || self.executable_is(pid, is_in))
    }

    fn executable_is(&self, pid: Pid, like: impl Fn(&[u8]) -> bool) -> bool {
        let mut space = [0_u8; PATH_SPACE];
        let mut path = [MaybeUninit::<u8>::uninit(); LONGEST_PATH];
        let read =
            rustix::fs::readlinkat_raw(&self.dir, path_of(&mut space, pid, "exe"), &mut path);
        match read {
            Ok((path, _)) => like(path),
            // Kernel threads, processes that we may not read, and processes whose leading thread
            // has ended.
            Err(Errno::NOENT) => self.executable(pid).is_some_and(|path| like(&path)),
            Err(_) => false,
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(text) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Returns the data of one process, or `None` if it may not be read. A lack of descriptors or
/// memory says nothing about the process, so it stays an error.
pub(crate) fn unless_busy<T>(looked: Result<Option<T>>) -> Result<Option<T>> {
    match looked {
        Err(error) if !error.is_busy() => Ok(None),
        other => other,
    }
}

/// Returns the results of `read` for all pids, in their order.
fn collect<T: Send>(
    pids: &[Pid],
    read: impl Fn(Pid) -> Result<Option<T>> + Sync,
) -> Result<Vec<T>> {
    let alone = |some: &[Pid]| -> Result<Vec<T>> {
        some.iter().filter_map(|&pid| read(pid).transpose()).collect()
    };
    // This reads files of the cgroup, so it is called only if a second thread may help.
    let several = || std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if pids.len() <= FEW || !several() {
        return alone(pids);
    }
    let (first, second) = pids.split_at(pids.len() / 2);
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new().name("procledger-scan".into());
        let helper = crate::sys::without_signals(|| helper.spawn_scoped(scope, || alone(second)));
        let found = alone(first);
        let rest = helper.ok().and_then(|helper| helper.join().ok());
        // Two threads need two descriptors at a time, and only one may be left. If reading with two
        // threads failed, this thread reads all of them.
        let mut found = found.or_else(|_| alone(first))?;
        found.extend(match rest {
            Some(Ok(rest)) => rest,
            Some(Err(_)) | None => alone(second)?,
        });
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_contains_this_process() {
        let snapshot = Proc::open().expect("/proc").snapshot().expect("a snapshot");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        assert!(snapshot.get(own).is_some());
    }

    #[test]
    fn two_threads_read_what_one_does_in_the_same_order() {
        let pids: Vec<Pid> = (1..=2000).filter_map(Pid::new).collect();
        let odd = |pid: Pid| Ok((pid.get() % 2 == 1).then_some(pid.get()));
        let all: Vec<u32> = (1..=2000).filter(|number| number % 2 == 1).collect();
        assert_eq!(collect(&pids, odd).expect("read"), all);
        assert_eq!(collect(&pids[..10], odd).expect("read"), [1, 3, 5, 7, 9]);
    }

    #[test]
    fn no_process_is_missed_with_one_descriptor_left_for_two_threads() {
        let free = std::sync::Mutex::new(());
        let one_at_a_time = |pid: Pid| {
            let busy = |_| Error::os("no descriptor is left", Errno::MFILE);
            let _held = free.try_lock().map_err(busy)?;
            std::thread::sleep(std::time::Duration::from_micros(1));
            Ok(Some(pid))
        };
        let pids: Vec<Pid> = (1..=2000).filter_map(Pid::new).collect();
        assert_eq!(collect(&pids, one_at_a_time).expect("read"), pids);
    }

    #[test]
    fn a_process_that_could_not_be_read_is_not_taken_for_unrelated() {
        let failed = |errno: Errno| Err::<Option<()>, _>(Error::os("failed to read", errno));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(unless_busy(failed(errno)).is_err(), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::IO] {
            assert_eq!(unless_busy(failed(errno)).expect("left out"), None, "{errno}");
        }
    }

    #[test]
    fn a_text_is_found_at_any_position() {
        for (bytes, text, found) in [
            (&b"/usr/bin/tool"[..], &b"tool"[..], true),
            (b"tool", b"tool", true),
            (b"totool\0", b"tool", true),
            (b"too", b"tool", false),
            (b"", b"tool", false),
        ] {
            assert_eq!(contains(bytes, text), found, "{bytes:?}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_executable() {
        let own = std::env::current_exe().expect("a path");
        let name = own.file_name().expect("a name").as_encoded_bytes();
        let found = Proc::open().expect("/proc").mentioning(&[name]).expect("a scan");
        assert!(found.contains(&Pid::new(i64::from(std::process::id())).expect("a pid")));
    }
}
