//! `/proc/PID/cgroup`: the cgroups that a process is in.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use crate::{
    error::Result,
    identity::Pid,
    sys::proc::{BUFFER, Proc},
};

/// Maximum size of the file: with the v1 hierarchies it has some twenty lines, each of which
/// contains a path.
const LIMIT: usize = 64 << 10;

impl Proc {
    /// Returns the path of a process's v2 cgroup, from the root of our cgroup namespace; `None` if
    /// the process is gone or is in none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is too long.
    pub(crate) fn cgroup(&self, pid: Pid) -> Result<Option<PathBuf>> {
        self.with_cgroups(pid, own_path).map(Option::flatten)
    }

    /// Reports whether a process is in a v2 cgroup of this name, or below one; `false` if that
    /// cannot be read.
    pub(crate) fn is_in_cgroup(&self, pid: Pid, name: &OsStr) -> bool {
        let is_in = self.with_cgroups(pid, |text| is_below(text, name));
        is_in.is_ok_and(|is_in| is_in == Some(true))
    }

    /// Returns the names of the v2 cgroup that a process is in and of those above it; none if they
    /// cannot be read.
    pub(crate) fn cgroup_names(&self, pid: Pid) -> Vec<OsString> {
        let owned = |name: &[u8]| OsStr::from_bytes(name).to_owned();
        let names = self.with_cgroups(pid, |text| names(text).map(owned).collect());
        names.ok().flatten().unwrap_or_default()
    }

    /// Returns the innermost systemd unit that a process is in, a service or a scope; `None` if it
    /// is in none, or if that cannot be read.
    pub(crate) fn systemd_unit(&self, pid: Pid) -> Option<OsString> {
        self.with_cgroups(pid, unit).ok().flatten()?
    }

    /// Returns the cgroup of the v1 freezer that the process is in, unless it is the root
    /// (`cgroups(7)`). In v2 a frozen process can be killed; in v1 it cannot.
    pub(crate) fn freezer(&self, pid: Pid) -> Option<String> {
        let stat = self.stat(pid).ok()??;
        if !stat.is_uninterruptible() {
            return None;
        }
        self.with_cgroups(pid, freezer).ok().flatten()?
    }

    fn with_cgroups<T>(&self, pid: Pid, parse: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        BUFFER.with_borrow_mut(|buffer| {
            Ok(self.read(pid, "cgroup", buffer, LIMIT)?.then(|| parse(buffer)))
        })
    }
}

/// Returns the path in the line of hierarchy 0: `0::/path` (cgroups(7)). The kernel appends `
/// (deleted)` if the cgroup was removed while a process was in it.
fn path(cgroups: &[u8]) -> Option<&[u8]> {
    cgroups.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

/// Returns the path of the v2 cgroup, without the mark of a removed one.
pub(super) fn own_path(cgroups: &[u8]) -> Option<PathBuf> {
    let path = path(cgroups).filter(|path| !path.ends_with(b" (deleted)"))?;
    Some(OsStr::from_bytes(path).into())
}

fn names(cgroups: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = path(cgroups).unwrap_or_default();
    path.strip_suffix(b" (deleted)").unwrap_or(path).split(|&byte| byte == b'/')
}

fn is_below(cgroups: &[u8], name: &OsStr) -> bool {
    names(cgroups).any(|part| part == name.as_bytes())
}

/// Returns the last name with the suffix of a unit in the path of the v2 hierarchy, or else of
/// systemd's v1 hierarchy.
fn unit(cgroups: &[u8]) -> Option<OsString> {
    let is_unit = |name: &&[u8]| name.ends_with(b".service") || name.ends_with(b".scope");
    let last = |path: &[u8]| {
        let mut names = path.rsplit(|&byte| byte == b'/').filter(is_unit);
        names.next().map(|name| OsStr::from_bytes(name).to_owned())
    };
    let of_v1 = |line: &[u8]| {
        let (_, rest) = line.split_at_checked(line.iter().position(|&byte| byte == b':')?)?;
        last(rest.strip_prefix(b":name=systemd:")?)
    };
    path(cgroups).and_then(last).or_else(|| cgroups.split(|&byte| byte == b'\n').find_map(of_v1))
}

/// Returns the path after `N:freezer:`, except for the root; controllers may be mounted together.
fn freezer(cgroups: &[u8]) -> Option<String> {
    cgroups.split(|&byte| byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (_, mut controllers) = (parts.next()?, parts.next()?.split(|&byte| byte == b','));
        let path = parts.next().filter(|path| *path != b"/")?;
        let is_freezer = controllers.any(|controller| controller == b"freezer");
        is_freezer.then(|| String::from_utf8_lossy(path).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_hierarchy_0_counts() {
        let text = b"4:memory:/other\n1:name=systemd:/x\n0::/user.slice/a b\n";
        assert_eq!(own_path(text), Some(PathBuf::from("/user.slice/a b")));
        assert_eq!(own_path(b"4:memory:/other\n"), None);
        assert_eq!(own_path(b"0::/gone (deleted)\n"), None);
    }

    #[test]
    fn a_cgroup_counts_by_a_whole_part_of_its_v2_path() {
        let text = b"4:memory:/leaf\n0::/a/leaf/below\n";
        for (name, is_in) in [("leaf", true), ("a", true), ("lea", false), ("memory", false)] {
            assert_eq!(is_below(text, OsStr::new(name)), is_in, "{name}");
        }
        assert!(!is_below(b"4:memory:/leaf\n", OsStr::new("leaf")));
        assert!(is_below(b"0::/a/leaf (deleted)\n", OsStr::new("leaf")));
    }

    #[test]
    fn the_innermost_unit_counts() {
        let unit = |text: &str| unit(text.as_bytes()).map(|name| name.into_string().expect("text"));
        let session = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n";
        assert_eq!(unit(session).as_deref(), Some("app-x.scope"));
        assert_eq!(unit("0::/system.slice/a.service/payload\n").as_deref(), Some("a.service"));
        let v1 = "4:memory:/b.service\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(unit(v1).as_deref(), Some("a.service"));
        assert_eq!(unit("4:memory:/b.service\n0::/\n"), None);
    }

    #[test]
    fn the_freezer_is_found_among_the_hierarchies() {
        let freezer = |text: &str| freezer(text.as_bytes());
        assert_eq!(freezer("5:freezer:/a:b\n0::/x\n").as_deref(), Some("/a:b"));
        assert_eq!(freezer("3:cpu,freezer:/a\n").as_deref(), Some("/a"));
        assert_eq!(freezer("5:freezer:/\n0::/freezer\n"), None);
        assert_eq!(freezer("0::/a\n"), None);
    }
}
