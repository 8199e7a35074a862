//! Reads and parses the files of `/proc`.
//!
//! Parsers take bytes, so that tests can pass captured input. Reading goes through one descriptor
//! on `/proc` that stays open, and `ENOENT` or `ESRCH` is a result, not an error: the process is
//! gone, or hidden from us (`hidepid`).
//!
//! - [`stat`], [`status`], [`environ`], [`memory`]: one file of a process each;
//! - [`snapshot`]: all processes at one time, as `scan` reads them;
//! - [`living_thread`]: reading a process whose leading thread has ended;
//! - [`children`]: the current children of a process;
//! - [`exec_image`]: the program image that a process runs;
//! - [`pid_alloc`]: the pids that were allocated since a process started.

pub(crate) mod children;
pub(crate) mod environ;
pub(crate) mod exec_image;
mod living_thread;
mod memory;
pub(crate) mod pid_alloc;
mod scan;
pub(crate) mod snapshot;
pub(crate) mod stat;
mod status;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, ffi::OsStr, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
};

pub(crate) use environ::TOKEN_VARIABLE;
pub(crate) use scan::unless_busy;
pub(crate) use stat::{TICK, TICKS_PER_SECOND, age, cpu_time, this_tick};

/// `PROC_SUPER_MAGIC` in `linux/magic.h`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// Buffer size that fits any `stat`, so that one read suffices: a read that does not fill the
/// buffer was the last one.
pub(super) const STAT_LIMIT: usize = 1 << 10;
/// How much of an environment is read. The kernel allows more, but no program of ours needs it.
pub(super) const ENVIRON_LIMIT: usize = 4 << 20;

pub(in crate::sys) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits `/proc/PID/cmdline` or `environ` into its elements.
pub(crate) fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|&byte| byte == 0)
}

/// Returns the arguments in `/proc/PID/cmdline`. A server that writes a title over its arguments
/// pads the title with zeros, which are no arguments.
pub(crate) fn arguments(cmdline: &[u8]) -> Vec<Vec<u8>> {
    let shown = if cmdline.ends_with(b"\0\0\0") {
        let end = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        &cmdline[..end]
    } else {
        cmdline
    };
    split_nul(shown).map(<[u8]>::to_vec).collect()
}

/// An open descriptor on `/proc`, and a buffer for each thread that reads through it.
#[derive(Debug)]
pub(crate) struct Proc {
    pub(in crate::sys) dir: OwnedFd,
}

thread_local! {
    pub(in crate::sys) static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Proc {
    /// Opens `/proc` and checks that it is the real one, of our own PID namespace.
    pub(crate) fn open() -> Result<Self> {
        let failed = |error: Errno| Error::os("failed to open `/proc`", error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => Error::os("failed to open `/proc`: mount it", error),
            error => failed(error),
        })?;
        if rustix::fs::fstatfs(&dir).map_err(failed)?.f_type != PROC_SUPER_MAGIC {
            return Err(Error::new(
                Kind::Unsupported,
                "`/proc` is not a proc file system: mount it",
            ));
        }
        let own = rustix::fs::readlinkat(&dir, "self", Vec::new()).map_err(failed)?;
        if own.to_bytes() != std::process::id().to_string().as_bytes() {
            return Err(Error::new(
                Kind::Unsupported,
                "`/proc` belongs to another PID namespace: mount one for this namespace",
            ));
        }
        Ok(Self { dir })
    }

    /// Returns the parent, its parent and so on, as far as they can be read. This takes only a few
    /// reads, however many processes there are.
    pub(crate) fn ancestors(&self, pid: Pid) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut next = pid;
        while let Ok(Some(stat)) = self.stat(next) {
            let Some(parent) = Pid::new(i64::from(stat.parent)) else { break };
            if parent == pid || found.contains(&parent) {
                break;
            }
            found.push(parent);
            next = parent;
        }
        found
    }

    /// Returns the arguments of a process; empty for a kernel thread or a zombie, `None` if it is
    /// gone.
    pub(crate) fn command(&self, pid: Pid) -> Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = Vec::new();
        if !self.read_of_memory(pid, "cmdline", &mut buffer, ENVIRON_LIMIT)? {
            return Ok(None);
        }
        if buffer.is_empty() {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(arguments(&buffer)))
    }

    /// Returns the path of its working directory; `None` if the process is gone or may not be read.
    pub(crate) fn working_directory(&self, pid: Pid) -> Option<Vec<u8>> {
        let path = rustix::fs::readlinkat(&self.dir, format!("{pid}/cwd"), Vec::new());
        path.ok().map(std::ffi::CString::into_bytes)
    }

    /// Returns the path of its executable; `None` if the process is gone or may not be read.
    pub(crate) fn executable(&self, pid: Pid) -> Option<Vec<u8>> {
        let read = |path: String| rustix::fs::readlinkat(&self.dir, path, Vec::new());
        read(format!("{pid}/exe"))
            .or_else(|error| match self.living_thread(pid) {
                Some(thread) => read(format!("{pid}/task/{thread}/exe")),
                None => Err(error),
            })
            .ok()
            .map(std::ffi::CString::into_bytes)
    }

    /// Reads a whole file of a process into `buffer`; returns `false` if the process is gone.
    pub(in crate::sys) fn read(
        &self,
        pid: Pid,
        file: &str,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool> {
        let mut space = [0_u8; PATH_SPACE];
        let name = path_of(&mut space, pid, file);
        buffer.clear();
        match read_at(&self.dir, name, buffer, limit) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::SRCH) => Ok(false),
            Err(error) => Err(Error::os(format!("failed to read `/proc/{pid}/{file}`"), error)),
        }
    }

    /// Reports whether other users' processes are hidden from us.
    pub(crate) fn hides_others(&self) -> bool {
        rustix::fs::statat(&self.dir, "1", AtFlags::empty()).is_err()
    }
}

/// Maximum length of a path: two numbers of 10 digits, `/task/` and the longest name.
pub(super) const PATH_SPACE: usize = 48;

/// Returns the path of a process's file below `/proc`, without an allocation.
pub(super) fn path_of<'a>(space: &'a mut [u8; PATH_SPACE], pid: Pid, file: &str) -> &'a OsStr {
    use std::{io::Write, os::unix::ffi::OsStrExt};
    let mut rest = &mut space[..];
    drop(write!(rest, "{pid}/{file}"));
    let length = PATH_SPACE - rest.len();
    OsStr::from_bytes(&space[..length])
}

fn read_at(
    dir: &OwnedFd,
    name: &OsStr,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> std::result::Result<(), Errno> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.reserve(STAT_LIMIT);
    if limit == STAT_LIMIT {
        return read_piece(&file, buffer);
    }
    loop {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(buffer.len().max(1024));
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(()),
            Ok(_) if buffer.len() >= limit => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_piece(file: &OwnedFd, buffer: &mut Vec<u8>) -> std::result::Result<(), Errno> {
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
