//! File systems: which of them can hold a ledger, their free space, attributes of files on them,
//! and limits that keep files from being opened or from growing.
//!
//! WAL needs memory that all its users share (<https://sqlite.org/wal.html>), and the locks of
//! instances need a flock(2) that the kernel releases when the holder dies. A network file system
//! guarantees neither.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags,
    },
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::error::{Error, Kind, Result};

/// `f_type` of network file systems, from statfs(2) and the kernel's `include/uapi/linux/magic.h`.
const NETWORK: [(u64, &str); 12] = [
    (0x0000_6969, "nfs"),
    (0x0000_517B, "smb"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x00C3_6400, "ceph"),
    (0x5346_414F, "afs"),
    (0x6B41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0000_564C, "ncp"),
    (0x0102_1997, "9p"),
    (0x0BD0_0BD0, "lustre"),
    (0x0116_1970, "gfs2"),
];

/// `FUSE_SUPER_MAGIC`, which is not conclusive by itself: an encrypted home or an `ntfs-3g` disk is
/// local.
const FUSE: u64 = 0x6573_5546;

/// Types, as in mountinfo, of the FUSE file systems that use a network.
const NETWORK_FUSE: [&str; 14] = [
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.glusterfs",
    "fuse.cephfs",
    "fuse.ceph-fuse",
    "fuse.curlftpfs",
    "fuse.gcsfuse",
    "fuse.goofys",
    "fuse.mount-s3",
    "fuse.blobfuse",
    "fuse.blobfuse2",
    "fuse.davfs",
    "fuse.juicefs",
];

/// Returns how many bytes an ordinary user may still write to the file system of a folder
/// (statvfs(3)).
pub(crate) fn free_bytes(folder: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(folder).map_err(|e| {
        Error::os(format!("failed to determine the free space at `{}`", folder.display()), e)
    })?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A limit, other than a permission, that keeps a file from being opened, created or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileLimit {
    /// `RLIMIT_NOFILE` of this process.
    Descriptors,
    /// `fs.file-max` of the machine.
    OpenFiles,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The file system has space, but no inode is free.
    Inodes,
    Space,
    /// `RLIMIT_FSIZE` of this process.
    FileSize,
}

impl FileLimit {
    /// The number of descriptors that a library opens for one file: the file itself, and two that
    /// belong to it.
    const DESCRIPTORS: usize = 3;
    /// A file that is smaller than its limit by less than this may have been refused to grow.
    const GROWTH: u64 = 64 << 10;

    /// Returns the limit that applies now to files in `folder`, the largest of which has
    /// `longest` bytes. For an error whose errno is unknown.
    pub(crate) fn of(folder: &Path, longest: u64) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened: std::result::Result<Vec<_>, Errno> = (0..Self::DESCRIPTORS)
            .map(|_| rustix::fs::open(folder, flags, Mode::empty()))
            .collect();
        match opened {
            Err(Errno::MFILE) => return Some(Self::Descriptors),
            Err(Errno::NFILE) => return Some(Self::OpenFiles),
            _ => {}
        }
        if is_read_only(folder) {
            return Some(Self::ReadOnly);
        }
        if has_no_inode(folder) {
            return Some(Self::Inodes);
        }
        if free_bytes(folder).is_ok_and(|free| free == 0) {
            return Some(Self::Space);
        }
        let limit = getrlimit(Resource::Fsize).current?;
        (longest.saturating_add(Self::GROWTH) >= limit).then_some(Self::FileSize)
    }

    /// Returns the errno of a system call that this limit makes fail.
    pub(crate) fn errno(self) -> i32 {
        match self {
            Self::Descriptors => libc::EMFILE,
            Self::OpenFiles => libc::ENFILE,
            Self::ReadOnly => libc::EROFS,
            Self::Inodes | Self::Space => libc::ENOSPC,
            Self::FileSize => libc::EFBIG,
        }
    }

    /// Returns the cause and what to do, to follow the subject of a message.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Descriptors => "no descriptor is left, raise the limit (`ulimit -n`)",
            Self::OpenFiles => "the machine has too many open files, raise `fs.file-max`",
            Self::ReadOnly => "its file system is mounted read-only, mount it writable",
            Self::Inodes => {
                "its file system has no inode left (`df -i`), remove files or choose another one"
            }
            Self::Space => "its disk is full, free some space",
            Self::FileSize => "the limit on the size of files is reached, raise it (`ulimit -f`)",
        }
    }
}

/// Reports whether the file system is mounted read-only.
pub(crate) fn is_read_only(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Reports whether no file can be created, since all inodes are used. A file system without a fixed
/// number of them reports 0 in total.
fn has_no_inode(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_files > 0 && found.f_favail == 0)
}

/// Returns the error of a file that could not be created in `folder`. `ENOSPC` means either that
/// the disk is full or that no inode is left, and the message says which.
pub(crate) fn not_created(message: String, folder: &Path, errno: Errno) -> Error {
    let limit = (errno == Errno::NOSPC)
        .then(|| if has_no_inode(folder) { FileLimit::Inodes } else { FileLimit::Space });
    match limit {
        Some(limit) => Error::os(format!("{message}: {}", limit.advice()), errno),
        None => Error::os(message, errno),
    }
}

/// Refuses a folder on a network file system.
pub(crate) fn check_local(folder: &Path) -> Result<()> {
    let shown = folder.display();
    let found = rustix::fs::statfs(folder)
        .map_err(|e| Error::os(format!("failed to read the file system type of `{shown}`"), e))?;
    let magic = magic(found.f_type);
    let fuse = if magic == FUSE { fuse_type_of(folder)? } else { None };
    match network_name(magic, fuse.as_deref()) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "`{shown}` is on a network file system ({name}), which cannot hold a ledger: \
                 choose a folder on a local disk"
            ),
        )),
    }
}

/// Reports whether another file is mounted at the path itself. Before Linux 5.8 the kernel does not
/// report that (statx(2)), and only a failing rename reveals it.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    attributes(path).contains(StatxAttributes::MOUNT_ROOT)
}

/// Returns the attribute that prevents a file from being replaced and written freely, as a word and
/// as the letter for chattr(1).
pub(crate) fn protecting_attribute(path: &Path) -> Option<(&'static str, char)> {
    let set = attributes(path);
    let all = [
        (StatxAttributes::APPEND, "append-only", 'a'),
        (StatxAttributes::IMMUTABLE, "immutable", 'i'),
    ];
    let found = all.into_iter().find(|(attribute, ..)| set.contains(*attribute));
    found.map(|(_, word, letter)| (word, letter))
}

fn attributes(path: &Path) -> StatxAttributes {
    rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)
        .map_or(StatxAttributes::empty(), |found| found.stx_attributes & found.stx_attributes_mask)
}

/// Reserves space for the first `length` bytes of a file, without changing its size (fallocate(2)).
/// Succeeds without an effect if the file system does not support that.
///
/// # Errors
///
/// `ENOSPC`, `EDQUOT` or `EFBIG` if there is too little space.
pub(crate) fn reserve(file: &File, length: u64) -> std::result::Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length.max(1)) {
        Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(errno),
        _ => Ok(()),
    }
}

/// Converts `f_type`, which is signed or unsigned, 32 or 64 bits wide, depending on the
/// architecture; a magic has 32 bits.
fn magic(f_type: impl TryInto<i128>) -> u64 {
    let wide: i128 = f_type.try_into().unwrap_or(0);
    u64::try_from(wide & 0xFFFF_FFFF).unwrap_or(0)
}

fn network_name(magic: u64, fuse: Option<&str>) -> Option<String> {
    if magic == FUSE {
        return fuse.filter(|name| NETWORK_FUSE.contains(name)).map(ToOwned::to_owned);
    }
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned())
}

fn fuse_type_of(folder: &Path) -> Result<Option<String>> {
    let device = fs::metadata(folder)
        .map_err(|e| Error::os(format!("failed to inspect `{}`", folder.display()), e))?
        .dev();
    let table = fs::read("/proc/self/mountinfo")
        .map_err(|e| Error::os("failed to read `/proc/self/mountinfo`", e))?;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Ok(type_in_mountinfo(&table, &format!("{major}:{minor}")))
}

/// Returns the file system type of the mount whose device is `device` ("0:54"), in the format of
/// `proc_pid_mountinfo(5)`.
fn type_in_mountinfo(table: &[u8], device: &str) -> Option<String> {
    let table = String::from_utf8_lossy(table);
    table.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == device).then(|| source.split(' ').next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:54 / /home/a/far rw,nosuid - fuse.sshfs a@b:/c rw,user_id=0\n\
        41 22 0:55 / /home/a/disk\\040x rw - fuseblk /dev/sdb1 rw\n\
        broken line\n";

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for magic in [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997] {
            assert!(network_name(magic, None).is_some(), "{magic:#x}");
        }
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(network_name(local, None), None, "{local:#x}");
        }
    }

    #[test]
    fn a_magic_is_the_same_in_a_signed_and_an_unsigned_field() {
        assert_eq!(magic(-11_317_950_i32), 0xFF53_4D42);
        assert_eq!(magic(0xFF53_4D42_i64), 0xFF53_4D42);
    }

    #[test]
    fn fuse_is_a_network_only_when_its_mount_says_so() {
        let far = type_in_mountinfo(MOUNTS, "0:54");
        assert_eq!(far.as_deref(), Some("fuse.sshfs"));
        assert!(network_name(FUSE, far.as_deref()).is_some());
        let near = type_in_mountinfo(MOUNTS, "0:55");
        assert_eq!(near.as_deref(), Some("fuseblk"));
        assert_eq!(network_name(FUSE, near.as_deref()), None);
        assert_eq!(network_name(FUSE, type_in_mountinfo(MOUNTS, "9:9").as_deref()), None);
    }
}
