//! One leaf: who is in it, and what may be done to all of them at once.

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
    fs::{AtFlags, Dir, Mode, OFlags, fstat, fstatfs, openat, unlinkat},
    io::Errno,
};

use super::branch::PREFIX;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    record::Cgroup,
};

/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Deeper than any program nests; it bounds the recursion.
const DEPTH: u32 = 64;
/// A member that has died leaves its cgroup within this; until then the folder cannot be removed.
const REMOVE_LIMIT: Duration = Duration::from_millis(50);
const REMOVE_PAUSE: Duration = Duration::from_millis(1);
/// A list of members or a short value: read in pieces of this size.
const PIECE: usize = 4096;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A leaf that was opened and is the recorded one.
#[derive(Debug)]
pub(crate) struct Leaf {
    fd: OwnedFd,
    record: Cgroup,
}

impl Leaf {
    /// Makes a leaf in an open branch.
    pub(super) fn make(branch: &OwnedFd, folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let failed = |errno: Errno| {
            Error::os(format!("failed to make the cgroup `{}`", path.display()), errno)
        };
        rustix::fs::mkdirat(branch, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let made = openat(branch, name, FOLDER, Mode::empty()).and_then(|fd| {
            let inode = fstat(&fd)?.st_ino;
            Ok(Self { fd, record: Cgroup { path: path.clone(), inode } })
        });
        made.map_err(|errno| {
            let _ = unlinkat(branch, name, AtFlags::REMOVEDIR);
            failed(errno)
        })
    }

    /// Opens the leaf that a row names; `None` where it is not there any more, or another folder has its name.
    ///
    /// It must be on a v2 hierarchy, of the form that [`make`](Self::make) gives, and `owner`'s: a row that was forged must
    /// not aim at a service.
    pub(crate) fn open(record: &Cgroup, owner: u32) -> Result<Option<Self>> {
        if !is_a_leafs_name(&record.path) {
            return Ok(None);
        }
        let failed = |errno: Errno| {
            Error::os(format!("failed to open the cgroup `{}`", record.path.display()), errno)
        };
        let fd = match rustix::fs::open(&record.path, FOLDER, Mode::empty()) {
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

    /// For `CLONE_INTO_CGROUP`.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Live processes in the leaf and below it. A zombie is not listed, but for one whose threads live (cgroups(7)).
    pub(crate) fn pids(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        self.visit(&mut |fd| {
            // A threaded cgroup lists no processes; those are listed by the domain above it.
            let text = match read(fd, c"cgroup.procs") {
                Err(Errno::OPNOTSUPP) => return Ok(()),
                other => other?,
            };
            // 0 stands for a process outside of our PID namespace.
            pids.extend(lines(&text).filter_map(|line| Pid::new(line.parse().ok()?)));
            Ok(())
        })
        .map_err(|errno| self.failed("read the members of", errno))?;
        Ok(pids)
    }

    /// SIGKILL to every process in the leaf and below it, those that are being forked included (Linux 5.14).
    ///
    /// [`is_unsupported`](Error::is_unsupported) on older kernels.
    pub(crate) fn kill(&self) -> Result<()> {
        match write(&self.fd, c"cgroup.kill", b"1") {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(Error::new(
                Kind::Unsupported,
                "this kernel has no cgroup.kill (Linux 5.14 is needed)",
            )),
            Err(errno) => Err(self.failed("kill what is in", errno)),
        }
    }

    /// Stops every process in the leaf, or lets it go on. Whoever is in uninterruptible sleep stops when it wakes.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        write(&self.fd, c"cgroup.freeze", if frozen { b"1" } else { b"0" })
            .map_err(|errno| self.failed("freeze", errno))
    }

    /// Whether every process in the leaf is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        read(self.fd.as_fd(), c"cgroup.events")
            .is_ok_and(|text| lines(&text).any(|line| line == "frozen 1"))
    }

    /// Limits the memory of the leaf, where it has the controller: beyond it the kernel ends all of the tree. Whether it does.
    pub(crate) fn limit_memory(&self, bytes: u64) -> bool {
        // All or nothing: a tree with one process missing is no use to anybody (Linux 4.19).
        let _ = write(&self.fd, c"memory.oom.group", b"1");
        write(&self.fd, c"memory.max", bytes.to_string().as_bytes()).is_ok()
    }

    /// How many processes of the leaf the kernel has killed for lack of memory; `None` without the memory controller.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let text = read(self.fd.as_fd(), c"memory.events").ok()?;
        oom_kills(&text)
    }

    /// Removes the leaf with what its program made below it; `false` while somebody is in it.
    pub(crate) fn remove(&self) -> bool {
        let deadline = Instant::now() + REMOVE_LIMIT;
        loop {
            match remove_tree(&self.fd, &self.record.path) {
                Ok(()) | Err(Errno::NOENT) => return true,
                // Whoever has just died may still be on its way out; somebody who lives is there to stay.
                Err(Errno::BUSY)
                    if Instant::now() < deadline
                        && self.pids().is_ok_and(|pids| pids.is_empty()) =>
                {
                    std::thread::sleep(REMOVE_PAUSE);
                }
                Err(_) => return false,
            }
        }
    }

    fn visit(
        &self,
        each: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        visit(self.fd.as_fd(), DEPTH, each)
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::os(format!("failed to {what} the cgroup `{}`", self.record.path.display()), errno)
    }
}

pub(super) fn is_cgroup2(fd: &OwnedFd) -> Result<bool, Errno> {
    #[expect(clippy::cast_sign_loss, reason = "a magic number, whose type differs by architecture")]
    Ok(fstatfs(fd)?.f_type as u64 == CGROUP2_MAGIC)
}

/// A branch of ours, and in it a token.
fn is_a_leafs_name(path: &Path) -> bool {
    let name = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_owned());
    name(Some(path)).is_some_and(|leaf| uuid::Uuid::try_parse(&leaf).is_ok())
        && name(path.parent()).is_some_and(|branch| branch.starts_with(PREFIX))
}

/// Calls `each` for the folder and those below it. What vanishes meanwhile holds nobody.
fn visit(
    fd: BorrowedFd<'_>,
    depth: u32,
    each: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    match each(fd) {
        Err(Errno::NODEV | Errno::NOENT) => return Ok(()),
        other => other?,
    }
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    for name in folders(fd)? {
        match openat(fd, &name, FOLDER, Mode::empty()) {
            Ok(below) => visit(below.as_fd(), depth - 1, each)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Names of the folders in a folder.
pub(super) fn folders(fd: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type().is_dir() && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes the folders below, the deepest first, then the folder itself.
fn remove_tree(fd: &OwnedFd, path: &Path) -> Result<(), Errno> {
    remove_below(fd.as_fd(), DEPTH)?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    rustix::fs::rmdir(path.as_c_str())
}

fn remove_below(fd: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    for name in folders(fd)? {
        if let Ok(below) = openat(fd, &name, FOLDER, Mode::empty()) {
            remove_below(below.as_fd(), depth - 1)?;
        }
        match unlinkat(fd, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
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

pub(super) fn write(fd: &OwnedFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = openat(fd, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(|_| ())
}

pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty())
}

/// `oom_kill` of `memory.events` (cgroup-v2.rst): processes killed by any kind of OOM killer.
fn oom_kills(text: &str) -> Option<u64> {
    lines(text).find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leaf_of_ours_has_a_leafs_name() {
        let token = "6f1c2d3e4f5061728394a5b6c7d8e9fa";
        let named = |path: String| is_a_leafs_name(Path::new(&path));
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
    fn a_folder_elsewhere_is_never_opened_as_a_leaf() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("procledger-x/6f1c2d3e4f5061728394a5b6c7d8e9fa");
        std::fs::create_dir_all(&path).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let own = rustix::process::geteuid().as_raw();
        assert!(Leaf::open(&Cgroup { path, inode }, own).unwrap().is_none());
    }
}
