//! Follows paths component by component, through descriptors.
//!
//! A path that is checked and then opened again may lead elsewhere the second time if a folder on
//! it belongs to another user: that user can put a symlink, or another folder, in its place. Here
//! each component is opened with `O_PATH` and `O_NOFOLLOW` below the descriptor of the previous
//! one, and the opened component is checked (`path_resolution(7)`, open(2)). A symlink is followed
//! only if no user but root and the acting user could have put it there.
//!
//! - [`Folders::along`] follows a path and keeps every folder on the way, so that each can be
//!   checked;
//! - [`controller`] returns the user, other than root, that controls where a path leads. root acts
//!   as that user there ([`super::fs_user`]), so that it does not matter where the path leads the
//!   next time it is resolved.
//!
//! openat2(2) with `RESOLVE_NO_SYMLINKS` would also refuse a `/var/run` that leads to `/run`, and
//! would report nothing about the folders on the way, each of which must be checked.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, readlinkat, statat},
    io::Errno,
    process::geteuid,
};

use super::{
    fs_user::Account,
    group_members::{is_ours, is_private, is_unmapped},
};
use crate::error::{Error, Kind, Result};

/// Maximum number of symlinks on one path, as in the kernel (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// Write permission of the group, of all others, and the sticky bit (inode(7)).
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// All permissions of the group and others.
const NOT_OWNER: u32 = 0o077;

/// The metadata of a file that was opened at a path (fstat(2)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Device and inode.
    pub(crate) file: (u64, u64),
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) len: u64,
}

impl Seen {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            file: (stat.st_dev, stat.st_ino),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            len: stat.st_size.cast_unsigned(),
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Describes what was found where a regular file was expected; `None` for a regular file.
    pub(crate) fn is_instead_of_a_file(&self) -> Option<&'static str> {
        match self.kind() {
            FileType::RegularFile => None,
            FileType::Directory => Some("a folder"),
            FileType::Fifo => Some("a FIFO"),
            FileType::Socket => Some("a socket"),
            FileType::Symlink => Some("a symlink"),
            _ => Some("a device"),
        }
    }
}

/// One folder on a path.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    /// Absolute, without symlinks.
    pub(crate) path: PathBuf,
    pub(crate) seen: Seen,
}

impl Folder {
    /// Returns the metadata of an entry of this folder; a symlink is not followed.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Option<Seen>> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Seen::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a path was not followed to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A component could not be opened, or is not a folder.
    Failed { at: PathBuf, error: io::Error },
    /// A symlink that another user has created, or could have created.
    Link { at: PathBuf, why: String },
    /// With [`Trust::of_root_alone`]: the first component of the path that a user other than root
    /// owns.
    Controlled { by: Seen },
}

impl Stop {
    /// Returns whether a component of the path does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    /// Returns the error; `message` describes what failed.
    pub(crate) fn into_error(self, message: impl FnOnce() -> String) -> Error {
        match self {
            Self::Failed { at, error } => {
                if let (io::ErrorKind::NotFound, Some(errno)) = (error.kind(), error.raw_os_error())
                {
                    return Error::new(Kind::NotFound, message()).with_errno(errno);
                }
                let (message, at) = (message(), format!("`{}`", at.display()));
                let names_it = message.contains(&at);
                let place = if names_it { String::new() } else { format!(" (at {at})") };
                Error::os(message + &place, error)
            }
            Self::Link { at, why } => Error::new(
                Kind::Denied,
                format!("`{}` is a symlink {why}: use the real path", at.display()),
            ),
            Self::Controlled { by } => {
                Error::new(Kind::Denied, format!("{}: uid {} controls the path", message(), by.uid))
            }
        }
    }
}

/// Which users may control where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// The trusted user besides root.
    uid: u32,
    /// A folder that its administrator vouches for: device and inode.
    vouched: Option<(u64, u64)>,
    links: Links,
    root_alone: bool,
}

/// The symlinks that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Trusted,
    Any,
}

/// Why a folder, or its content, could be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Obstacle {
    pub(crate) folder: PathBuf,
    /// "belongs to uid 7", "can be written by all users (mode 777)".
    pub(crate) why: String,
    pub(crate) owner: bool,
    /// Whether a private folder below it would be enough.
    pub(crate) private_is_enough: bool,
}

impl Trust {
    /// Trusts root and `uid`.
    pub(crate) fn of(uid: u32) -> Self {
        Self { uid, vouched: None, links: Links::Trusted, root_alone: false }
    }

    /// Trusts the same users, for reading only: any symlink is followed.
    pub(crate) fn of_reader(uid: u32) -> Self {
        Self { links: Links::Any, ..Self::of(uid) }
    }

    /// Trusts root alone: following a path stops at the first component that another user owns.
    pub(crate) fn of_root_alone() -> Self {
        Self { root_alone: true, ..Self::of(0) }
    }

    /// Trusts all users that can write to the folder at this path, which its administrator vouches
    /// for. A path that does not lead to a folder has no effect.
    pub(crate) fn vouching(mut self, folder: Option<&Path>) -> Self {
        let folder = folder.and_then(|folder| rustix::fs::stat(folder).ok());
        self.vouched = folder.map(|stat| Seen::of(&stat).file);
        self
    }

    /// Returns why another user could replace the content of this folder; `None` if none can.
    /// `private_below` says that on the way down from it there is a folder of the acting user that
    /// no other user may even enter.
    pub(crate) fn obstacle(&self, folder: &Folder, private_below: bool) -> Option<Obstacle> {
        let Seen { uid, gid, mode, file, .. } = folder.seen;
        let found = |why, owner, private_is_enough| {
            Some(Obstacle { folder: folder.path.clone(), why, owner, private_is_enough })
        };
        if self.vouched == Some(file) {
            return None;
        }
        if self.is_foreign(uid) {
            return found(format!("belongs to uid {uid}"), true, false);
        }
        if mode & STICKY != 0 {
            return None;
        }
        let shown = mode & 0o7777;
        if mode & OTHERS_WRITE != 0 {
            return found(format!("can be written by all users (mode {shown:o})"), false, false);
        }
        if mode & GROUP_WRITES != 0 && !is_private(&folder.fd, gid, self.uid) {
            let ours = is_ours(gid);
            if !(private_below && ours) {
                return found(
                    format!("can be written by group {gid} (mode {shown:o})"),
                    false,
                    ours,
                );
            }
        }
        None
    }

    /// Reports whether a folder belongs to the acting user and is closed to all others.
    pub(crate) fn is_private(&self, folder: &Folder) -> bool {
        folder.seen.uid == self.uid && folder.seen.mode & NOT_OWNER == 0
    }

    pub(crate) fn is_foreign(&self, uid: u32) -> bool {
        uid != 0 && uid != self.uid && !is_unmapped(uid)
    }

    /// Checks that only root and the acting user can have created a symlink, and can replace it.
    fn check_link(&self, folder: &Folder, name: &OsStr, link: &Seen) -> Result<(), Stop> {
        if self.root_alone && self.is_foreign(link.uid) {
            return Err(Stop::Controlled { by: *link });
        }
        let at = folder.path.join(name);
        if self.links == Links::Any {
            return Ok(());
        }
        if self.is_foreign(link.uid) {
            return Err(Stop::Link { at, why: format!("of uid {}", link.uid) });
        }
        match self.obstacle(folder, false) {
            // root alone determines who controls the path, not whether it is safe; the folder is
            // judged by its owner.
            Some(obstacle) if !self.root_alone => Err(Stop::Link {
                at,
                why: format!("in the folder `{}`, which {}", folder.path.display(), obstacle.why),
            }),
            _ => Ok(()),
        }
    }
}

/// The folders on a path, from the root down.
#[derive(Debug)]
pub(crate) struct Folders {
    all: Vec<Folder>,
    links: usize,
}

impl Folders {
    /// Follows `path`, which leads to a folder.
    pub(crate) fn along(path: &Path, trust: &Trust) -> Result<Self, Stop> {
        let failed = |error: io::Error| Stop::Failed { at: path.to_owned(), error };
        let path = std::path::absolute(path).map_err(failed)?;
        let root = Path::new("/");
        let fd = openat(CWD, root, folder_flags(), Mode::empty()).map_err(|e| failed(e.into()))?;
        let seen = Seen::of(&fstat(&fd).map_err(|e| failed(e.into()))?);
        let mut folders = Self { all: Vec::new(), links: 0 };
        folders.push(Folder { fd, path: root.to_owned(), seen }, trust)?;
        folders.descend(&path, trust)?;
        Ok(folders)
    }

    /// Iterates over the folders from the last one up to the root.
    pub(crate) fn upwards(&self) -> impl Iterator<Item = &Folder> {
        self.all.iter().rev()
    }

    /// Returns the folder that the path leads to.
    pub(crate) fn last(&self) -> &Folder {
        self.all.last().unwrap_or_else(|| unreachable!("the root is never left"))
    }

    /// Follows `name` in the last folder as long as it is a symlink. Returns the folders on the
    /// way, and the final name with the metadata of the file there.
    pub(crate) fn resolve(
        mut self,
        name: &OsStr,
        trust: &Trust,
    ) -> Result<(Self, OsString, Option<Seen>), Stop> {
        let mut name = name.to_owned();
        loop {
            let at = self.last().path.join(&name);
            let failed = |error: io::Error| Stop::Failed { at: at.clone(), error };
            let seen = self.last().look(&name).map_err(failed)?;
            let Some(link) = seen.filter(|seen| seen.kind() == FileType::Symlink) else {
                return Ok((self, name, seen));
            };
            let target = self.target(&name, &link, trust)?;
            let Some(last) = target.file_name() else {
                // ".." or "/" lead to a folder, which is followed as a path.
                self.descend(&target, trust)?;
                let folder = self.last().seen;
                return Ok((self, OsString::from("."), Some(folder)));
            };
            last.clone_into(&mut name);
            self.descend(target.parent().unwrap_or(Path::new("")), trust)?;
        }
    }

    /// Returns where a symlink in the last folder leads.
    fn target(&mut self, name: &OsStr, link: &Seen, trust: &Trust) -> Result<PathBuf, Stop> {
        let folder = self.last();
        trust.check_link(folder, name, link)?;
        let failed =
            |error: Errno| Stop::Failed { at: folder.path.join(name), error: error.into() };
        let target = readlinkat(&folder.fd, name, Vec::new()).map_err(failed)?;
        self.links += 1;
        if self.links > LINKS_MAX {
            let at = self.last().path.join(name);
            return Err(Stop::Failed { at, error: Errno::LOOP.into() });
        }
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    fn descend(&mut self, path: &Path, trust: &Trust) -> Result<(), Stop> {
        let mut rest: VecDeque<OsString> = VecDeque::new();
        self.queue(path, &mut rest);
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                self.all.truncate(self.all.len().saturating_sub(1).max(1));
                continue;
            }
            let folder = self.last();
            let at = folder.path.join(&name);
            let failed = |error: Errno| Stop::Failed { at: at.clone(), error: error.into() };
            // Opened first, then checked, so that the checked folder cannot be exchanged.
            let fd = openat(&folder.fd, &name, component_flags(), Mode::empty()).map_err(failed)?;
            let seen = Seen::of(&fstat(&fd).map_err(failed)?);
            match seen.kind() {
                FileType::Directory => self.push(Folder { fd, path: at, seen }, trust)?,
                FileType::Symlink => {
                    let target = self.target(&name, &seen, trust)?;
                    self.queue(&target, &mut rest);
                }
                _ => return Err(failed(Errno::NOTDIR)),
            }
        }
        Ok(())
    }

    /// Puts the components of `path` before those that are still to be followed.
    fn queue(&mut self, path: &Path, rest: &mut VecDeque<OsString>) {
        if path.is_absolute() {
            self.all.truncate(1);
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => rest.push_front(name.to_owned()),
                Component::ParentDir => rest.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    fn push(&mut self, folder: Folder, trust: &Trust) -> Result<(), Stop> {
        if trust.root_alone && trust.is_foreign(folder.seen.uid) {
            return Err(Stop::Controlled { by: folder.seen });
        }
        self.all.push(folder);
        Ok(())
    }
}

fn folder_flags() -> OFlags {
    component_flags() | OFlags::DIRECTORY
}

/// Returns flags with `O_PATH`, which opens nothing that could block: no FIFO, no device, no
/// automount.
fn component_flags() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Returns the user, other than root, that controls where `path` leads: the owner of the first
/// folder or symlink on the way that does not belong to root, otherwise the owner of the file.
/// `None` if only root controls the path, or if this process is not root.
///
/// This only determines as which user root must act. The path is then followed again as that user.
///
/// # Errors
///
/// If the folder cannot be reached, so that there is nothing to check.
pub fn controller(path: &Path) -> io::Result<Option<Account>> {
    account_of(path, true)
}

/// Does the same for a file that is replaced by name and never opened: the existing file does not
/// count.
pub(crate) fn controller_of_folder(path: &Path) -> io::Result<Option<Account>> {
    account_of(path, false)
}

fn account_of(path: &Path, and_the_file: bool) -> io::Result<Option<Account>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match first_foreign(path, and_the_file) {
        Ok(by) => Ok(by.map(|by| Account::of(by.uid, by.gid))),
        Err(Stop::Controlled { by }) => Ok(Some(Account::of(by.uid, by.gid))),
        Err(Stop::Failed { error, .. }) => Err(error),
        Err(Stop::Link { .. }) => Err(Errno::LOOP.into()),
    }
}

fn first_foreign(path: &Path, and_the_file: bool) -> Result<Option<Seen>, Stop> {
    let trust = Trust::of_root_alone();
    let Some(name) = path.file_name() else {
        return Folders::along(path, &trust).map(|_| None);
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folders = Folders::along(folder.unwrap_or(Path::new(".")), &trust)?;
    if !and_the_file {
        return Ok(None);
    }
    let (_, _, seen) = folders.resolve(name, &trust)?;
    Ok(seen.filter(|seen| trust.is_foreign(seen.uid)))
}
