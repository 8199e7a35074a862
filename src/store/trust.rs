//! Determines where the ledger really is, and whether it may be trusted.
//!
//! Rows of a ledger make us send signals, so a user who can write to it can choose our targets.
//! Only its owner may be able to do that: the file must be ours, and no other user may be able to
//! write to it or to replace it. root may open another user's ledger; from the first access to the
//! path on, it then has only that user's file access rights ([`crate::sys::fs_user`]).
//!
//! The folders are judged by the descriptors through which the path was followed
//! ([`crate::sys::trusted_path`]). Later accesses are by path again. That is safe if only root and
//! the acting user can change where the path leads, and harmless if root acts as the user who can.
//! The ledger itself is never opened here (see [`super`] on POSIX locks), and nothing is written.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
    process::geteuid,
};

use crate::{
    error::{Error, Kind, Result},
    sys::{
        filesystem::{self, FileLimit},
        fs_user::{Account, act_as},
        trusted_path::{Folders, Obstacle, Seen, Trust, controller},
    },
};

/// Write permission of the group and of all others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The maximum length of a file name (`NAME_MAX` in `linux/limits.h`).
const NAME_MAX: usize = 255;
/// No path that SQLite opens is longer: 512 bytes less the suffix of a journal.
const SQLITE_PATH_MAX: usize = 504;
/// The longest suffix of a file beside the ledger: the lock of an instance, `-instance-`, 32 hex
/// digits and `.lock`.
const LONGEST_SUFFIX: usize = 47;
/// Files that SQLite and the setup keep beside the ledger.
const COMPANIONS: [&str; 4] = ["-wal", "-shm", "-journal", "-setup.lock"];

/// The user that a ledger is opened as, and the folder that its administrator vouches for.
#[derive(Clone, Debug)]
pub(super) struct TrustPolicy {
    /// The user whose file access rights root takes; `None` if we act as ourselves.
    pub(super) account: Option<Account>,
    trust: Trust,
    reader: Trust,
}

impl TrustPolicy {
    /// Determines the policy for a path. `vouched` is a folder whose writers are trusted. It is
    /// ignored if root acts as another user: root's administrator cannot vouch for that user's
    /// folders.
    pub(super) fn of(path: &Path, vouched: Option<&Path>) -> Self {
        // A path that cannot be reached is refused later, by name; one that appears meanwhile is
        // checked then.
        let account = controller(path).ok().flatten();
        let uid = account.map_or_else(me, |account| account.uid);
        let vouched = vouched.filter(|_| account.is_none());
        let reader = if uid == 0 { Trust::of_root_alone() } else { Trust::of_reader(uid) };
        Self { account, trust: Trust::of(uid).vouching(vouched), reader }
    }

    fn uid(&self) -> u32 {
        self.account.map_or_else(me, |account| account.uid)
    }
}

/// A ledger's real path, and the file that is there.
#[derive(Debug)]
pub(super) struct Located {
    /// Absolute, without symlinks.
    pub(super) path: PathBuf,
    /// `None` if there is no file yet.
    pub(super) found: Option<Found>,
    folders: Folders,
    policy: TrustPolicy,
}

/// The metadata of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Device and inode.
    pub(super) file: (u64, u64),
    pub(super) owner: u32,
    pub(super) len: u64,
    mode: u32,
}

impl Located {
    /// Resolves `path`, in order to write to the ledger; fails if it cannot be a ledger, regardless
    /// of its owner. This and everything that follows must be called with the file access rights of
    /// `policy.account`.
    pub(super) fn at(path: &Path, policy: &TrustPolicy) -> Result<Self> {
        look(path, policy, &policy.trust)
    }

    /// Does the same in order to read the ledger only.
    pub(super) fn to_read(path: &Path, policy: &TrustPolicy) -> Result<Self> {
        let located = look(path, policy, &policy.reader)?;
        // The file has appeared since the controller of the path was determined.
        let foreign = located.found.filter(|found| policy.reader.is_foreign(found.owner));
        match (policy.uid(), foreign) {
            (0, Some(_)) => located.check_owner().map(|()| located),
            _ => Ok(located),
        }
    }

    /// Resolves the path once more, since a symlink may have appeared there.
    pub(super) fn again(&self) -> Result<Self> {
        Self::at(&self.path, &self.policy)
    }

    pub(super) fn account(&self) -> Option<Account> {
        self.policy.account
    }

    /// Returns the owner of the file, or the user that is about to create it.
    pub(super) fn owner(&self) -> u32 {
        self.found.map_or_else(|| self.policy.uid(), |found| found.owner)
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Refuses a ledger that another user could have written to, or that we cannot write to.
    pub(super) fn check_trusted(&self) -> Result<()> {
        self.check_name()?;
        self.check_owner()?;
        self.check_folders()?;
        self.check_companions()?;
        self.check_attributes()?;
        self.check_writable()
    }

    /// Refuses a name to which no suffix can be added, or a path that SQLite does not open, before
    /// anything is created.
    fn check_name(&self) -> Result<()> {
        let length = self.path.file_name().map_or(0, OsStr::len);
        let longest = NAME_MAX - LONGEST_SUFFIX;
        if length > longest {
            return Err(Error::invalid(format!(
                "the name of the ledger `{}` has {length} bytes: files beside it have longer names, \
                 choose one of at most {longest} bytes",
                self.path.display()
            )));
        }
        let length = self.path.as_os_str().len();
        if length > SQLITE_PATH_MAX {
            return Err(Error::invalid(format!(
                "the path of the ledger `{}` has {length} bytes: SQLite opens none of more than \
                 {SQLITE_PATH_MAX}, choose a shorter one",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Refuses a folder or a ledger whose attributes (chattr(1)) forbid what SQLite does with them.
    fn check_attributes(&self) -> Result<()> {
        let file = self.found.map(|_| self.path.as_path());
        for path in [Some(self.folder()), file].into_iter().flatten() {
            if let Some((word, letter)) = filesystem::protecting_attribute(path) {
                let shown = path.display();
                let message = format!(
                    "`{shown}` has the attribute {word}, so the ledger `{}` cannot be written: \
                     run `chattr -{letter} {shown}`, or choose another folder",
                    self.path.display()
                );
                return Err(Error::new(Kind::Denied, message));
            }
        }
        Ok(())
    }

    fn check_owner(&self) -> Result<()> {
        let shown = self.path.display();
        let uid = self.policy.uid();
        let Some(found) = self.found else {
            // A file that root created there would lock the folder's owner out, or would be there
            // without the owner's request.
            return match self.policy.account {
                Some(_) => Err(Error::new(
                    Kind::Denied,
                    format!(
                        "the ledger `{shown}` could be replaced: its path belongs to uid {uid}, \
                         run as that user, or choose another folder"
                    ),
                )),
                None => Ok(()),
            };
        };
        if found.owner != uid {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{shown}` belongs to uid {}, and this is uid {uid}: \
                     run as its owner, or choose another ledger",
                    found.owner
                ),
            ));
        }
        if found.mode & WRITABLE_BY_OTHERS != 0 {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{shown}` can be written by others (mode {:o}): \
                     check its rows, then run `chmod go-w` on it",
                    found.mode & 0o7777
                ),
            ));
        }
        Ok(())
    }

    /// Checks from the ledger's folder up to the root: no other user may be able to put another
    /// file in its place.
    fn check_folders(&self) -> Result<()> {
        match self.obstacle() {
            None => Ok(()),
            Some(found) => Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{}` could be replaced: the folder `{}` {}; {}",
                    self.path.display(),
                    found.folder.display(),
                    found.why,
                    remedy(&found)
                ),
            )),
        }
    }

    /// Returns the first folder, on the way up, in which another user could replace a file or
    /// folder.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        let mut private_below = false;
        self.folders.upwards().find_map(|folder| {
            let found = self.policy.trust.obstacle(folder, private_below);
            private_below |= self.policy.trust.is_private(folder);
            found
        })
    }

    /// Checks the companions: in a sticky folder another user can leave a `-wal` for us to read.
    /// Called before SQLite opens it, and again afterwards, when no other user can replace it any
    /// more.
    pub(super) fn check_companions(&self) -> Result<()> {
        let shared =
            fs::metadata(self.folder()).is_ok_and(|folder| folder.mode() & WRITABLE_BY_OTHERS != 0);
        COMPANIONS.iter().try_for_each(|suffix| {
            let path = beside(&self.path, suffix);
            let shown = path.display();
            let seen = match fs::symlink_metadata(&path) {
                Ok(seen) => seen,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(Error::os(format!("failed to inspect `{shown}`"), e)),
            };
            let ours = seen.uid() == self.owner();
            let plain = seen.is_file() && seen.mode() & WRITABLE_BY_OTHERS == 0;
            // The file has several names: it is in a backup made of hard links, or another user
            // wants to make root write elsewhere.
            let linked = seen.nlink() > 1 && (shared || !ours);
            if plain && !linked && (ours || seen.uid() == 0) {
                return Ok(());
            }
            Err(Error::new(
                Kind::Denied,
                format!(
                    "`{shown}` is not a plain file of the ledger's owner (uid {}, mode {:o}): \
                     find out what created it, then remove it",
                    seen.uid(),
                    seen.mode()
                ),
            ))
        })
    }

    fn check_writable(&self) -> Result<()> {
        if !may_write(self.folder()) {
            if filesystem::is_read_only(self.folder()) {
                let (path, advice) = (self.path.display(), FileLimit::ReadOnly.advice());
                let message = format!("the ledger `{path}` cannot be written: {advice}");
                return Err(Error::os(message, Errno::ROFS));
            }
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the folder of the ledger `{}` cannot be written by uid {}: \
                     SQLite keeps the WAL there, choose a folder that it can write",
                    self.path.display(),
                    self.policy.uid()
                ),
            ));
        }
        // An empty file was left by a crash between its creation and the setting of its mode; the
        // setup sets the mode.
        if self.found.is_some_and(|found| found.len > 0) && !may_write(&self.path) {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the ledger `{}` cannot be written by uid {}: check its mode",
                    self.path.display(),
                    self.policy.uid()
                ),
            ));
        }
        Ok(())
    }
}

/// Returns the ledger's folder if no other user could replace the ledger at `path`, for `doctor`;
/// otherwise the error names the obstacle and a remedy. Makes the same checks as
/// [`super::Store::open_trusting`], but opens nothing.
pub(crate) fn check_path(path: &Path, vouched: Option<&Path>) -> Result<PathBuf> {
    let policy = TrustPolicy::of(path, vouched);
    act_as(policy.account, || {
        let located = Located::at(path, &policy)?;
        located.check_trusted()?;
        Ok(located.folder().to_owned())
    })
}

/// Returns `path` with `suffix` after its last character.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Reports whether the kernel lets this process write there, according to mode, owner and mount
/// (faccessat2(2)).
pub(super) fn may_write(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn me() -> u32 {
    geteuid().as_raw()
}

/// Returns what to do about a folder that another user could write to.
pub(super) fn remedy(found: &Obstacle) -> String {
    let folder = found.folder.display();
    let vouch = format!(
        "name it with `--trust-folder {folder}` if all users that can write it are trusted"
    );
    if found.owner {
        format!("choose another folder, run as that user, or {vouch}")
    } else if found.private_is_enough {
        format!(
            "run `chmod go-w` on it, put the ledger into a folder of its own below it (`mkdir -m 700`), or {vouch}"
        )
    } else {
        format!("run `chmod go-w` on it, choose another folder, or {vouch}")
    }
}

fn look(path: &Path, policy: &TrustPolicy, trust: &Trust) -> Result<Located> {
    let Some(name) = path.file_name() else {
        let message = format!("`{}` does not name a file: a ledger is a file", path.display());
        return Err(Error::invalid(message));
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folders = Folders::along(folder, trust).map_err(|stop| {
        let advice = if stop.is_missing() { ": create it first" } else { "" };
        stop.into_error(|| {
            format!("failed to find the folder `{}` of the ledger{advice}", folder.display())
        })
    })?;
    let named = folders.last().path.join(name);
    let (folders, name, seen) = folders.resolve(name, trust).map_err(|stop| {
        stop.into_error(|| format!("failed to inspect the ledger `{}`", named.display()))
    })?;
    let path = folders.last().path.join(name);
    if seen.is_none() && path != named {
        let message =
            format!("the ledger `{}` is a symlink that leads nowhere: remove it", named.display());
        return Err(Error::new(Kind::NotFound, message).with_errno(libc::ENOENT));
    }
    let found = seen.map(|seen| regular(&path, &seen)).transpose()?;
    filesystem::check_local(path.parent().unwrap_or(Path::new("/")))?;
    Ok(Located { path, found, folders, policy: policy.clone() })
}

fn regular(path: &Path, seen: &Seen) -> Result<Found> {
    if let Some(what) = seen.is_instead_of_a_file() {
        let message = format!("`{}` is {what}: a ledger is a plain file", path.display());
        return Err(Error::new(Kind::NotALedger, message));
    }
    Ok(Found { file: seen.file, owner: seen.uid, len: seen.len, mode: seen.mode })
}
