//! An instance's own cgroup, and the creation of task cgroups in it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, fstat, mkdirat, openat, unlinkat},
    io::Errno,
};
use uuid::Uuid;

use super::{
    record::PREFIX,
    task::{NAMED, TaskCgroup, is_cgroup2, lines, read, write},
    walk::{FOLDER, folders},
};
use crate::{
    error::{Error, Kind, Result},
    sys::cgroup::Cgroup,
    sys::spawn::try_joining,
};

/// A cgroup of this instance in which task cgroups can be created and joined, both of which was
/// tested.
#[derive(Debug)]
pub(crate) struct InstanceCgroup {
    base: OwnedFd,
    fd: OwnedFd,
    path: PathBuf,
    inode: u64,
    /// Whether task cgroups have a memory controller; determined when the first limit is set.
    memory: OnceLock<bool>,
    /// A task cgroup for the next root. A spawn takes it, and replaces it while its program is
    /// being loaded.
    next: Mutex<Option<TaskCgroup>>,
}

impl InstanceCgroup {
    /// Returns where an instance cgroup of this name would be created.
    pub(crate) fn path_in(base: &Path, name: &str) -> PathBuf {
        base.join(format!("{PREFIX}{name}"))
    }

    /// Creates an instance cgroup, and tests whether a child can be put into it.
    ///
    /// That it can be created is not enough: joining it requires write access to the `cgroup.procs`
    /// of the common ancestor of this process's cgroup and the child's (cgroups(7)), and a
    /// clone3(2) that no seccomp profile refuses.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let failed = |errno: Errno| {
            Error::os(format!("failed to create the cgroup `{}`", path.display()), errno)
        };
        let (Some(base), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid(format!("`{}` is not a cgroup folder", path.display())));
        };
        let base =
            rustix::fs::open(base, FOLDER & !OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        if !is_cgroup2(&base).map_err(failed)? {
            let what = format!(
                "`{}` is not on a cgroup v2 file system: choose a folder below its mount",
                path.parent().unwrap_or(path).display()
            );
            return Err(Error::new(Kind::InvalidInput, what));
        }
        mkdirat(&base, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let opened = openat(&base, name, FOLDER, Mode::empty());
        let joined = opened.map_err(failed).and_then(|fd| {
            try_joining(fd.as_fd()).map_err(|error| {
                let what = format!("a process cannot be put into the cgroup `{}`", path.display());
                Error::new(error.kind(), what).with_source(error)
            })?;
            Ok((fstat(&fd).map_err(failed)?.st_ino, fd))
        });
        match joined {
            Ok((inode, fd)) => {
                let (path, memory, next) = (path.to_owned(), OnceLock::new(), Mutex::default());
                Ok(Self { base, fd, path, inode, memory, next })
            }
            Err(error) => {
                let _ = unlinkat(&base, name, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Returns a new task cgroup: the prepared one, if there is one.
    pub(crate) fn task_cgroup(&self) -> Result<TaskCgroup> {
        let prepared = self.next().take();
        prepared.map_or_else(|| self.create_task_cgroup(), Ok)
    }

    /// Prepares the task cgroup of the next root, as far as that is possible.
    pub(crate) fn prepare_task_cgroup(&self) {
        if self.next().is_none()
            && let Ok(created) = self.create_task_cgroup()
            && let Some(unused) = self.next().replace(created)
        {
            unused.remove();
        }
    }

    fn create_task_cgroup(&self) -> Result<TaskCgroup> {
        TaskCgroup::make(&self.fd, &self.path, &Uuid::new_v4().simple().to_string())
    }

    fn next(&self) -> MutexGuard<'_, Option<TaskCgroup>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives task cgroups that are created from now on a memory controller, if one is available.
    ///
    /// A controller is enabled from the top down, and only by a cgroup that has no processes of its
    /// own, unless it is the root of the hierarchy (cgroup-v2.rst, "No Internal Process
    /// Constraint"). The root is configured by the machine's administrator, so a controller that is
    /// off there stays off.
    pub(crate) fn enable_memory(&self) -> bool {
        *self.memory.get_or_init(|| {
            let has = |fd: BorrowedFd<'_>| {
                read(fd, c"cgroup.controllers").is_ok_and(|text| lists_memory(&text))
            };
            let at_the_root = read(self.base.as_fd(), c"cgroup.events").is_err();
            if !has(self.fd.as_fd()) && !at_the_root {
                let _ = write(&self.base, c"cgroup.subtree_control", b"+memory");
            }
            has(self.fd.as_fd()) && write(&self.fd, c"cgroup.subtree_control", b"+memory").is_ok()
        })
    }

    /// Removes the instance cgroup; returns `false` if a task cgroup is in it.
    pub(crate) fn remove(&self) -> bool {
        let Some(name) = self.path.file_name() else { return false };
        if let Some(unused) = self.next().take() {
            unused.remove();
        }
        matches!(unlinkat(&self.base, name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT))
    }
}

/// Restores the owner's permissions on an instance cgroup, which a task of the same user may have
/// removed.
pub(crate) fn open_up_instance_cgroup(path: &Path, owner: u32) {
    let named = path.file_name().and_then(|name| name.to_str());
    let Some(name) = named.filter(|name| name.starts_with(PREFIX)) else { return };
    let base = path
        .parent()
        .map(|base| rustix::fs::open(base, NAMED.difference(OFlags::NOFOLLOW), Mode::empty()));
    let Some(Ok(base)) = base else { return };
    let is_ours = openat(&base, name, NAMED, Mode::empty()).is_ok_and(|fd| {
        is_cgroup2(&fd) == Ok(true) && fstat(&fd).is_ok_and(|stat| stat.st_uid == owner)
    });
    if is_ours {
        let _ = chmodat(&base, name, Mode::from_raw_mode(0o755), AtFlags::empty());
    }
}

/// Reports whether a list of cgroup controllers, in one line, contains `memory`.
fn lists_memory(text: &str) -> bool {
    lines(text).flat_map(str::split_whitespace).any(|name| name == "memory")
}

/// Removes the cgroups of a dead instance: task cgroups without a process, then the instance cgroup
/// itself.
///
/// Returns the task cgroups that still contain a process; none if nothing is left. Without `inode`
/// (the instance died before it recorded the inode) the name, which is unique, must suffice: only
/// empty folders are removed.
pub(crate) fn remove_instance_cgroup(
    path: &Path,
    inode: Option<u64>,
    owner: u32,
) -> Result<Vec<TaskCgroup>> {
    let failed = |errno: Errno| {
        Error::os(format!("failed to remove the cgroup `{}`", path.display()), errno)
    };
    let named = path.file_name().and_then(|name| name.to_str());
    if !named.is_some_and(|name| name.starts_with(PREFIX)) {
        return Ok(Vec::new());
    }
    let opened = rustix::fs::open(path, FOLDER, Mode::empty()).or_else(|errno| {
        if errno != Errno::ACCESS {
            return Err(errno);
        }
        open_up_instance_cgroup(path, owner);
        rustix::fs::open(path, FOLDER, Mode::empty())
    });
    let fd = match opened {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = fstat(&fd).map_err(failed)?;
    let ours = is_cgroup2(&fd).map_err(failed)?
        && stat.st_uid == owner
        && inode.is_none_or(|inode| inode == stat.st_ino);
    if !ours {
        return Ok(Vec::new());
    }
    let mut left = Vec::new();
    for name in folders(fd.as_fd()).map_err(failed)? {
        let Ok(name) = name.into_string() else { continue };
        let Ok(below) = openat(&fd, name.as_str(), NAMED, Mode::empty()) else { continue };
        let record =
            Cgroup { path: path.join(&name), inode: fstat(&below).map_err(failed)?.st_ino };
        if let Some(task) = TaskCgroup::open(&record, owner)?.filter(|task| !task.remove()) {
            left.push(task);
        }
    }
    if left.is_empty() {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_is_recognized_as_a_whole_word() {
        assert!(lists_memory("cpuset cpu io memory pids\n"));
        assert!(!lists_memory("hugetlb\n"));
        assert!(!lists_memory(""));
    }

    #[test]
    fn an_instance_cgroup_cannot_be_created_in_a_folder_that_is_not_a_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let error = InstanceCgroup::make(&InstanceCgroup::path_in(folder.path(), "x")).unwrap_err();
        assert!(error.to_string().contains("not on a cgroup v2 file system"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
