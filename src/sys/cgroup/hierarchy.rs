//! Determines where the v2 hierarchy is mounted, and where in it this process may create cgroups.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{of_process::own_path, record::PREFIX};
use crate::error::{Error, Kind, Result};

/// Attributes that systemd sets on a cgroup that it delegates (systemd.resource-control(5),
/// `Delegate=`); `user.` since systemd 254.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Maximum number of task cgroups nested within each other.
const NESTING: usize = 8;

/// One mount of the v2 hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The part of the hierarchy that is mounted.
    root: PathBuf,
    /// The mount point.
    point: PathBuf,
}

/// Returns the folders in which an instance cgroup may be created, the best first: the nearest
/// delegated ancestor, then the cgroup of this process.
///
/// # Errors
///
/// [`is_unsupported`](Error::is_unsupported) if no v2 hierarchy is mounted, or this process is
/// outside the mounted part.
pub(crate) fn bases() -> Result<Vec<PathBuf>> {
    let read = |path: &str| {
        std::fs::read(path).map_err(|error| Error::os(format!("failed to read `{path}`"), error))
    };
    let none = |what: &str| Error::new(Kind::Unsupported, format!("no usable cgroup v2: {what}"));
    let mounts = mounts(&read("/proc/self/mountinfo")?);
    if mounts.is_empty() {
        return Err(none("no cgroup2 file system is mounted"));
    }
    let own = own_path(&read("/proc/self/cgroup")?)
        .ok_or_else(|| none("this process is in no v2 hierarchy"))?;
    let (folder, mount) = mounts
        .iter()
        .find_map(|mount| Some((folder(mount, &own)?, mount)))
        .filter(|(folder, _)| folder.is_dir())
        .ok_or_else(|| none("the cgroup of this process is not below any mount that it sees"))?;
    let mut bases: Vec<PathBuf> = delegated(&folder, &mount.point).into_iter().collect();
    bases.extend(outermost(&folder));
    if bases.first() != Some(&folder) {
        bases.push(folder);
    }
    Ok(bases)
}

/// Returns the folder above the outermost instance cgroup, if instance and task cgroups are nested
/// too deeply: a host that its own task restarts again and again must not be nested deeper each
/// time.
fn outermost(folder: &Path) -> Option<PathBuf> {
    let instances = folder.ancestors().filter(|ancestor| is_instance_cgroup(ancestor));
    let outermost = instances.enumerate().skip(NESTING).last();
    outermost.and_then(|(_, instance)| instance.parent()).map(Path::to_owned)
}

fn is_instance_cgroup(folder: &Path) -> bool {
    let name = folder.file_name().map(OsStrExt::as_bytes);
    name.is_some_and(|name| name.starts_with(PREFIX.as_bytes()))
}

/// Returns where a task cgroup could probably be created, without creating one: the first base that
/// this process may write to.
pub(crate) fn prospect() -> Result<Option<PathBuf>> {
    let may_write = |path: &Path| {
        let flags = rustix::fs::AtFlags::EACCESS;
        rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::WRITE_OK, flags).is_ok()
    };
    // Each base is the common ancestor of this process's cgroup and of the task cgroups in it.
    Ok(bases()?.into_iter().find(|base| may_write(base) && may_write(&base.join("cgroup.procs"))))
}

/// Returns the nearest ancestor, or the folder itself, that a manager has marked as delegated.
fn delegated(folder: &Path, top: &Path) -> Option<PathBuf> {
    folder
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(top))
        .find(|ancestor| DELEGATED.iter().any(|name| is_marked(ancestor, name)))
        .map(Path::to_owned)
}

fn is_marked(folder: &Path, name: &str) -> bool {
    let mut value = [0_u8; 8];
    rustix::fs::getxattr(folder, name, &mut value[..])
        .is_ok_and(|length| value.get(..length) == Some(b"1"))
}

/// Returns the folder of a cgroup, if the mount shows it.
pub(super) fn folder(mount: &Mount, cgroup: &Path) -> Option<PathBuf> {
    // Outside our cgroup namespace the path begins with `/..` (cgroup_namespaces(7)).
    if cgroup.components().any(|part| part == std::path::Component::ParentDir) {
        return None;
    }
    let below = cgroup.strip_prefix(&mount.root).ok()?;
    let shown =
        if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) };
    Some(shown)
}

/// Parses the cgroup2 mounts in `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
pub(super) fn mounts(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    // Optional fields end with a hyphen; the type comes next.
    fields.find(|field| *field == b"-")?;
    (fields.next()? == b"cgroup2").then(|| Mount { root: unescape(root), point: unescape(point) })
}

/// Decodes a path: space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(digits.unwrap_or(first));
        rest = if digits.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hybrid_mount_is_found_among_the_others() {
        let text = b"30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let expected =
            Mount { root: PathBuf::from("/"), point: PathBuf::from("/sys/fs/cgroup/unified") };
        assert_eq!(mounts(text), [expected]);
    }

    #[test]
    fn a_mount_point_with_a_space_is_read_as_it_is() {
        let text = b"31 30 0:27 /a\\134b /mnt/with\\040space rw - cgroup2 none rw";
        let expected =
            Mount { root: PathBuf::from("/a\\b"), point: PathBuf::from("/mnt/with space") };
        assert_eq!(mounts(text), [expected]);
    }

    #[test]
    fn a_cgroup_is_found_below_the_part_that_is_mounted() {
        let mount = Mount { root: "/docker/1".into(), point: "/sys/fs/cgroup".into() };
        assert_eq!(folder(&mount, Path::new("/docker/1/a")), Some("/sys/fs/cgroup/a".into()));
        assert_eq!(folder(&mount, Path::new("/docker/1")), Some("/sys/fs/cgroup".into()));
        assert_eq!(folder(&mount, Path::new("/docker/10")), None);
        assert_eq!(folder(&mount, Path::new("/../x")), None);
    }

    #[test]
    fn a_cgroup_nested_deep_in_task_cgroups_leads_to_the_outermost_base() {
        let nested =
            |depth: usize| PathBuf::from(format!("/base{}", "/procledger-x/token".repeat(depth)));
        assert_eq!(outermost(&nested(0)), None);
        assert_eq!(outermost(&nested(NESTING)), None);
        assert_eq!(outermost(&nested(NESTING + 1)), Some("/base".into()));
    }

    /// Escapes a path as the kernel does in mountinfo (`mangle` in `fs/proc_namespace.c`).
    fn mangled(path: &[u8]) -> Vec<u8> {
        let digits = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        path.iter().flat_map(digits).collect()
    }

    fn path() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(1..=u8::MAX, 0..12),
            r"[ #\\/\n\t0-7a-]{0,12}".prop_map(String::into_bytes),
        ]
        .prop_map(|rest| [&b"/"[..], &rest].concat())
    }

    proptest! {
        #[test]
        fn any_path_is_read_as_it_is(root in path(), point in path(), others in any::<u32>()) {
            let mut text = format!("{others} 1 0:2 / /other rw - tmpfs - rw\n3 1 0:4 ").into_bytes();
            text.extend([&mangled(&root)[..], b" ", &mangled(&point), b" rw shared:1 - cgroup2 none rw\n"].concat());
            let expected = Mount {
                root: PathBuf::from(OsString::from_vec(root)),
                point: PathBuf::from(OsString::from_vec(point)),
            };
            prop_assert_eq!(mounts(&text), [expected]);
        }

        #[test]
        fn any_bytes_are_accepted_as_mounts_and_cgroups(bytes: Vec<u8>, line in r"[0-9:/ \\\n-]{0,60}") {
            for text in [&bytes[..], line.as_bytes()] {
                let _ = (mounts(text), own_path(text));
            }
        }
    }

    #[test]
    fn broken_lines_are_skipped() {
        for text in [&b""[..], b"31", b"31 30 0:27 / /x rw", b"31 30 0:27 / /x rw -"] {
            assert_eq!(mounts(text), []);
        }
    }
}
