//! Walks over a cgroup and all cgroups nested in it, however deep.
//!
//! Only a task's own `cgroup.max.depth` limits how deep it nests cgroups, so a walk must not depend
//! on a stack, on `PATH_MAX` or on the number of open files. It holds one descriptor, with which it
//! descends by name and ascends by `..`; for each level it remembers the inode and the names that
//! are left to visit. A cgroup cannot be moved (there is no rename on v2), so `..` leads back to
//! the folder that the walk came from, which the inode confirms.
//!
//! If a folder may not be opened, the walk skips it and reports that it is incomplete.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, chmodat, fstat, openat, statat, unlinkat},
    io::Errno,
};

/// Time limit of a walk, for a task that creates cgroups faster than a walk visits them.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The permissions that the owner needs on a folder.
const FOLDER_MODE: u32 = 0o700;

/// One level of a walk: a folder, and the names that are left to visit in it.
struct Level {
    inode: u64,
    names: Vec<CString>,
    /// The name of the folder in its parent.
    name: CString,
}

/// Whether a walk skips folders of its own user that are closed to it, or restores its permissions
/// on them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    Skip,
    Open,
}

struct Walk {
    here: OwnedFd,
    device: u64,
    levels: Vec<Level>,
    closed: Closed,
}

impl Walk {
    /// Starts a walk at `top`; `None` if that cannot be listed.
    fn begin(top: BorrowedFd<'_>, closed: Closed) -> Result<Option<Self>, Errno> {
        let here = match openat(top, c".", FOLDER, Mode::empty()) {
            Ok(here) => here,
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let stat = fstat(&here)?;
        let (inode, names) = (stat.st_ino, folders(here.as_fd())?);
        let levels = vec![Level { inode, names, name: CString::default() }];
        Ok(Some(Self { here, device: stat.st_dev, levels, closed }))
    }

    /// Descends into a folder; returns `false` if the folder is gone, or another file system is
    /// mounted on it.
    fn enter(&mut self, name: &CStr) -> Result<bool, Errno> {
        match self.try_enter(name) {
            Err(Errno::ACCESS) if self.closed == Closed::Open => {
                chmodat(&self.here, name, Mode::from_raw_mode(FOLDER_MODE), AtFlags::empty())?;
                self.try_enter(name)
            }
            other => other,
        }
    }

    fn try_enter(&mut self, name: &CStr) -> Result<bool, Errno> {
        let listed = openat(&self.here, name, FOLDER, Mode::empty())
            .and_then(|below| Ok((fstat(&below)?, folders(below.as_fd())?, below)));
        let (stat, names, below) = match listed {
            Ok(listed) => listed,
            Err(Errno::NOENT | Errno::NODEV) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if stat.st_dev != self.device {
            return Ok(false);
        }
        self.levels.push(Level { inode: stat.st_ino, names, name: name.to_owned() });
        self.here = below;
        Ok(true)
    }

    /// Ascends out of a folder that is done; returns its name.
    fn leave(&mut self) -> Result<Option<CString>, Errno> {
        let Some(done) = self.levels.pop() else { return Ok(None) };
        let Some(above) = self.levels.last() else { return Ok(None) };
        let parent = openat(&self.here, c"..", FOLDER, Mode::empty())?;
        let stat = fstat(&parent)?;
        if stat.st_ino != above.inode || stat.st_dev != self.device {
            return Err(Errno::STALE);
        }
        self.here = parent;
        Ok(Some(done.name))
    }
}

/// Calls `each` for the cgroup and those nested in it; returns whether it was called for all of
/// them and could read all of them.
///
/// A cgroup that vanishes meanwhile contains no process. `each` fails with `EACCES` if it may not
/// read.
pub(super) fn visit(
    top: BorrowedFd<'_>,
    closed: Closed,
    each: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    visit_until(Instant::now() + LIMIT, top, closed, each)
}

fn visit_until(
    deadline: Instant,
    top: BorrowedFd<'_>,
    closed: Closed,
    each: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<bool, Errno> {
    let mut look = |fd: BorrowedFd<'_>| match each(fd) {
        Ok(()) | Err(Errno::NODEV | Errno::NOENT) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno),
    };
    let mut complete = look(top)?;
    let Some(mut walk) = Walk::begin(top, closed)? else { return Ok(false) };
    while let Some(level) = walk.levels.last_mut() {
        let Some(name) = level.names.pop() else {
            match walk.leave() {
                Ok(Some(_)) => continue,
                Ok(None) => break,
                // The parent was closed after the walk had passed through it.
                Err(Errno::ACCESS | Errno::PERM | Errno::STALE) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        };
        if Instant::now() >= deadline {
            return Ok(false);
        }
        match walk.enter(&name) {
            Ok(true) => complete &= look(walk.here.as_fd())?,
            Ok(false) => {}
            Err(Errno::ACCESS | Errno::PERM) => complete = false,
            Err(errno) => return Err(errno),
        }
    }
    Ok(complete)
}

/// Removes all nested cgroups, the deepest first. Fails with `EBUSY` if a process is in one, or if
/// it takes too long.
pub(super) fn remove_nested(top: BorrowedFd<'_>) -> Result<(), Errno> {
    remove_nested_until(Instant::now() + LIMIT, top)
}

fn remove_nested_until(deadline: Instant, top: BorrowedFd<'_>) -> Result<(), Errno> {
    let Some(mut walk) = Walk::begin(top, Closed::Open)? else { return Err(Errno::ACCESS) };
    while let Some(level) = walk.levels.last_mut() {
        if Instant::now() >= deadline {
            return Err(Errno::BUSY);
        }
        if let Some(name) = level.names.pop() {
            walk.enter(&name)?;
            continue;
        }
        let Some(name) = walk.leave()? else { break };
        match unlinkat(&walk.here, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Restores the owner's permissions on a file in a cgroup, if its mode grants none.
pub(super) fn open_file(fd: BorrowedFd<'_>, name: &CStr, mode: u32) {
    let lacks = |stat: rustix::fs::Stat| stat.st_mode & mode != mode;
    if statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(lacks) {
        // If that is refused, the next scan reports it.
        let _ = chmodat(fd, name, Mode::from_raw_mode(mode), AtFlags::empty());
    }
}

/// Returns the names of the folders in a folder.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A deadline for tests: a busy machine may take longer than [`LIMIT`] for some hundred
    /// folders.
    fn later() -> Instant {
        Instant::now() + Duration::from_mins(2)
    }

    /// Creates nested folders, since a walk works on any file system; each level has another folder
    /// beside the next one.
    fn nested(depth: usize) -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().expect("a folder");
        let top = rustix::fs::open(folder.path(), FOLDER, Mode::empty()).expect("opened");
        let mut here = openat(&top, c".", FOLDER, Mode::empty()).expect("opened");
        for _ in 0..depth {
            for name in [c"a-name-that-fills-a-path", c"beside"] {
                rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).expect("made");
            }
            here = openat(&here, c"a-name-that-fills-a-path", FOLDER, Mode::empty()).expect("in");
        }
        (folder, top)
    }

    fn count(top: &OwnedFd) -> (usize, bool) {
        let mut seen = 0;
        let complete = visit_until(later(), top.as_fd(), Closed::Skip, &mut |_| {
            seen += 1;
            Ok(())
        });
        (seen, complete.expect("walked"))
    }

    #[test]
    fn a_walk_has_no_depth_limit_and_ends_where_it_began() {
        // The last one has a path longer than PATH_MAX.
        for depth in [0, 1, 65, 300] {
            let (_folder, top) = nested(depth);
            assert_eq!(count(&top), (1 + 2 * depth, true), "{depth}");
            remove_nested_until(later(), top.as_fd()).expect("removed");
            assert_eq!(count(&top), (1, true), "{depth}");
        }
    }

    #[test]
    fn a_folder_that_may_not_be_read_is_skipped() {
        let (_folder, top) = nested(3);
        let mut seen = 0;
        let complete = visit_until(later(), top.as_fd(), Closed::Skip, &mut |_| {
            seen += 1;
            if seen == 2 { Err(Errno::ACCESS) } else { Ok(()) }
        });
        assert_eq!((seen, complete.expect("walked")), (7, false));
    }
}
