//! One task cgroup: lists the processes in it, and acts on all of them at once.

use std::{
    ffi::{CStr, CString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, fstat, fstatfs, openat, unlinkat},
    io::Errno,
};

use super::{
    record::PREFIX,
    walk::{Closed, FOLDER, open_file, remove_nested, visit},
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::cgroup::Cgroup,
};

/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Time within which a member that has died leaves its cgroup; until then the folder cannot be
/// removed.
const REMOVE_LIMIT: Duration = Duration::from_millis(50);
const REMOVE_PAUSE: Duration = Duration::from_millis(1);
/// Buffer size for reading a list of members, or a value, piece by piece.
const PIECE: usize = 4096;

/// Opens a folder with `O_PATH`, which succeeds whatever its mode is, so that its inode can be
/// compared.
pub(super) const NAMED: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The permissions that the owner needs on a folder, and on a file in it.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const WRITE_MODE: u32 = 0o200;

/// The processes in a task cgroup and in the cgroups nested in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    pub(crate) pids: Vec<Pid>,
    /// Whether it contains processes outside our PID namespace, which have no pid here.
    pub(crate) foreign: bool,
    /// Whether all could be listed; `false` if a nested cgroup may not be read.
    ///
    /// A process that moves from one nested cgroup to another meanwhile may still be missed. Only
    /// [`TaskCgroup::is_populated`] reports reliably whether there is any.
    pub(crate) complete: bool,
}

/// A task cgroup that was opened and verified to be the recorded one.
#[derive(Debug)]
pub(crate) struct TaskCgroup {
    fd: OwnedFd,
    record: Cgroup,
}

impl TaskCgroup {
    /// Creates a task cgroup in an open instance cgroup.
    pub(super) fn make(instance_cgroup: &OwnedFd, folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let failed = |errno: Errno| {
            Error::os(format!("failed to create the cgroup `{}`", path.display()), errno)
        };
        rustix::fs::mkdirat(instance_cgroup, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let made = openat(instance_cgroup, name, FOLDER, Mode::empty()).and_then(|fd| {
            let inode = fstat(&fd)?.st_ino;
            Ok(Self { fd, record: Cgroup { path: path.clone(), inode } })
        });
        made.map_err(|errno| {
            let _ = unlinkat(instance_cgroup, name, AtFlags::REMOVEDIR);
            failed(errno)
        })
    }

    /// Opens the task cgroup of a row; `None` if it no longer exists, or another folder has its
    /// name.
    ///
    /// It must be on a v2 hierarchy, have a name of the form that [`make`](Self::make) gives, and
    /// belong to `owner`: a forged row must not target a service.
    pub(crate) fn open(record: &Cgroup, owner: u32) -> Result<Option<Self>> {
        if !is_a_task_cgroups_name(&record.path) {
            return Ok(None);
        }
        let failed = |errno: Errno| {
            Error::os(format!("failed to open the cgroup `{}`", record.path.display()), errno)
        };
        let fd = match rustix::fs::open(&record.path, NAMED, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let on_cgroup2 = is_cgroup2(&fd).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        let same = on_cgroup2 && stat.st_ino == record.inode && stat.st_uid == owner;
        Ok(same.then(|| Self { fd, record: record.clone() }))
    }

    pub(crate) fn record(&self) -> &Cgroup {
        &self.record
    }

    /// Returns the descriptor for `CLONE_INTO_CGROUP`.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Lists the live processes in the task cgroup and in the cgroups nested in it. A zombie is not
    /// listed, unless it still has live threads (cgroups(7)).
    ///
    /// # Errors
    ///
    /// If the task cgroup cannot be read for lack of descriptors or memory. A cgroup that may not
    /// be read is no error, but makes the list incomplete.
    pub(crate) fn list(&self) -> Result<Listing> {
        let (mut pids, mut foreign) = (Vec::new(), false);
        let (mut complete, mut first) = (true, true);
        let walked = visit(self.fd.as_fd(), Closed::Skip, &mut |fd| {
            let is_top = std::mem::take(&mut first);
            let text = match read(fd, c"cgroup.procs") {
                // A threaded cgroup lists no processes. They are listed by the domain above it,
                // which may be the task cgroup or, if a task made the task cgroup itself threaded,
                // a cgroup that is not ours.
                Err(Errno::OPNOTSUPP) => {
                    complete &= !is_top;
                    return Ok(());
                }
                other => other?,
            };
            for line in lines(&text) {
                match line.parse().ok().and_then(Pid::new) {
                    Some(pid) => pids.push(pid),
                    // 0 stands for a process outside our PID namespace.
                    None => foreign = true,
                }
            }
            Ok(())
        });
        let walked = walked.map_err(|errno| self.failed("read the members of", errno))?;
        Ok(Listing { pids, foreign, complete: complete && walked })
    }

    /// Reports whether a live process is in the task cgroup or in a cgroup nested in it, however
    /// deep, according to the kernel (`populated` in `cgroup.events`, cgroup-v2.rst); `None` if
    /// that may not be read.
    pub(crate) fn is_populated(&self) -> Option<bool> {
        let text = match read(self.fd.as_fd(), c"cgroup.events") {
            // The cgroup was removed, so it was empty.
            Err(Errno::NOENT | Errno::NODEV) => return Some(false),
            other => other.ok()?,
        };
        lines(&text).find_map(|line| line.strip_prefix("populated ")).map(|count| count != "0")
    }

    /// Reports whether the task cgroup certainly contains no live process, without a walk.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_populated() == Some(false)
    }

    /// Waits until no live process is in the task cgroup, at most `limit`; returns whether it is
    /// empty.
    pub(crate) fn wait_empty(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.is_empty() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(REMOVE_PAUSE);
        }
        true
    }

    /// Restores the owner's permissions on the task cgroup and on the cgroups nested in it, which a
    /// task of the same user may have removed.
    pub(crate) fn open_up(&self) {
        // A descriptor that was opened with O_PATH does not support fchmod(2); see open(2).
        if let Ok(stat) = fstat(&self.fd)
            && stat.st_mode & FOLDER_MODE != FOLDER_MODE
        {
            use std::os::fd::AsRawFd;
            let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            let mode = Mode::from_raw_mode(FOLDER_MODE);
            let _ = chmodat(rustix::fs::CWD, own.as_str(), mode, AtFlags::empty());
        }
        open_file(self.fd.as_fd(), c"cgroup.events", FILE_MODE);
        open_file(self.fd.as_fd(), c"cgroup.kill", WRITE_MODE);
        // If some cannot be opened, the next list is incomplete as well.
        let _ = visit(self.fd.as_fd(), Closed::Open, &mut |fd| {
            open_file(fd, c"cgroup.procs", FILE_MODE);
            open_file(fd, c"cgroup.freeze", FILE_MODE);
            Ok(())
        });
    }

    /// Sends SIGKILL to every process in the task cgroup and below it, including processes that are
    /// being forked (Linux 5.14).
    ///
    /// [`is_unsupported`](Error::is_unsupported) on older kernels.
    pub(crate) fn kill(&self) -> Result<()> {
        match write(&self.fd, c"cgroup.kill", b"1") {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(Error::new(
                Kind::Unsupported,
                "this kernel has no cgroup.kill (Linux 5.14 is required)",
            )),
            Err(errno) => Err(self.failed("kill the processes in", errno)),
        }
    }

    /// Freezes every process in the task cgroup, or thaws it. A process in uninterruptible sleep
    /// freezes when it wakes.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        write(&self.fd, c"cgroup.freeze", if frozen { b"1" } else { b"0" })
            .map_err(|errno| self.failed("freeze", errno))
    }

    /// Thaws all frozen processes in the task cgroup, whichever of the nested cgroups froze them.
    pub(crate) fn thaw(&self) {
        // A cgroup that cannot be thawed stays as it is: SIGKILL ends frozen processes.
        let _ = visit(self.fd.as_fd(), Closed::Skip, &mut |fd| {
            if read(fd, c"cgroup.freeze").is_ok_and(|frozen| frozen.trim_end() != "0") {
                let _ = write(fd, c"cgroup.freeze", b"0");
            }
            Ok(())
        });
    }

    /// Reports whether every process in the task cgroup is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        read(self.fd.as_fd(), c"cgroup.events")
            .is_ok_and(|text| lines(&text).any(|line| line == "frozen 1"))
    }

    /// Limits the memory of the task cgroup, if it has the controller; beyond the limit the kernel
    /// ends the whole tree. Returns whether the limit is in effect.
    pub(crate) fn limit_memory(&self, bytes: u64) -> bool {
        // The kernel ends all processes or none (Linux 4.19), since a tree without one of its
        // processes is useless.
        let _ = write(&self.fd, c"memory.oom.group", b"1");
        write(&self.fd, c"memory.max", bytes.to_string().as_bytes()).is_ok()
    }

    /// Returns how many processes of the task cgroup the kernel killed for lack of memory; `None`
    /// without the memory controller.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let text = read(self.fd.as_fd(), c"memory.events").ok()?;
        oom_kills(&text)
    }

    /// Removes the task cgroup and the cgroups that its program created below it; returns `false`
    /// if a process is in it.
    pub(crate) fn remove(&self) -> bool {
        let deadline = Instant::now() + REMOVE_LIMIT;
        let mut opened = false;
        loop {
            if self.is_populated() != Some(true) {
                match remove_tree(&self.fd, &self.record.path) {
                    Ok(()) | Err(Errno::NOENT) => return true,
                    // A process that has just died may still be exiting.
                    Err(Errno::BUSY) => {}
                    Err(Errno::ACCESS) if !opened => {
                        self.open_up();
                        opened = true;
                        continue;
                    }
                    Err(_) => return false,
                }
            } else if self.list().is_ok_and(|list| !list.pids.is_empty()) {
                return false;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(REMOVE_PAUSE);
        }
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::os(format!("failed to {what} the cgroup `{}`", self.record.path.display()), errno)
    }
}

pub(super) fn is_cgroup2(fd: &OwnedFd) -> Result<bool, Errno> {
    #[expect(clippy::cast_sign_loss, reason = "a magic number, whose type differs by architecture")]
    Ok(fstatfs(fd)?.f_type as u64 == CGROUP2_MAGIC)
}

/// Reports whether the path is that of one of our instance cgroups, followed by a token.
fn is_a_task_cgroups_name(path: &Path) -> bool {
    let name = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_owned());
    name(Some(path)).is_some_and(|cgroup| uuid::Uuid::try_parse(&cgroup).is_ok())
        && name(path.parent()).is_some_and(|instance_cgroup| instance_cgroup.starts_with(PREFIX))
}

/// Removes the nested folders, the deepest first, then the folder itself.
fn remove_tree(fd: &OwnedFd, path: &Path) -> Result<(), Errno> {
    remove_nested(fd.as_fd())?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    rustix::fs::rmdir(path.as_c_str())
}

pub(super) fn read(fd: BorrowedFd<'_>, name: &CStr) -> Result<String, Errno> {
    let file = openat(fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut piece = [0_u8; PIECE];
    loop {
        match rustix::io::read(&file, &mut piece)? {
            0 => return String::from_utf8(text).map_err(|_| Errno::ILSEQ),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}

pub(super) fn write(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = openat(fd, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(|_| ())
}

pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty())
}

/// Parses `oom_kill` in `memory.events` (cgroup-v2.rst): the number of processes killed by any kind
/// of OOM killer.
fn oom_kills(text: &str) -> Option<u64> {
    lines(text).find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_task_cgroup_of_ours_has_such_a_name() {
        let token = "6f1c2d3e4f5061728394a5b6c7d8e9fa";
        let named = |path: String| is_a_task_cgroups_name(Path::new(&path));
        assert!(named(format!("/sys/fs/cgroup/procledger-x/{token}")));
        assert!(!named(format!("/sys/fs/cgroup/system.slice/{token}")));
        assert!(!named("/sys/fs/cgroup/procledger-x/ssh.service".into()));
        assert!(!named("/sys/fs/cgroup/procledger-x".into()));
        assert!(!named("/".into()));
    }

    #[test]
    fn oom_kills_are_read_from_memory_events() {
        let text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(oom_kills(text), Some(2));
        assert_eq!(oom_kills("low 0\n"), None);
    }

    #[test]
    fn a_folder_elsewhere_is_never_opened_as_a_task_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("procledger-x/6f1c2d3e4f5061728394a5b6c7d8e9fa");
        std::fs::create_dir_all(&path).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let own = rustix::process::geteuid().as_raw();
        assert!(TaskCgroup::open(&Cgroup { path, inode }, own).unwrap().is_none());
    }
}
