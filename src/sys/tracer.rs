//! What keeps a process from ending: its tracer, the freezer.

use super::procfs::Proc;
use crate::identity::Pid;

impl Proc {
    /// Returns the cgroup of the v1 freezer that the process is in, where it is not the topmost one (`cgroups(7)`). In v2 a
    /// frozen process can be killed; in v1 it cannot.
    pub(crate) fn freezer(&self, pid: Pid) -> Option<String> {
        let stat = self.stat(pid).ok()??;
        if !stat.is_uninterruptible() {
            return None;
        }
        let mut buffer = Vec::new();
        self.read(pid, "cgroup", &mut buffer, 64 << 10).ok()?.then(|| parse_freezer(&buffer))?
    }
}

/// Returns the path after `N:freezer:` in `/proc/PID/cgroup`, except for the root; controllers may be mounted together.
fn parse_freezer(cgroup: &[u8]) -> Option<String> {
    cgroup.split(|&byte| byte == b'\n').find_map(|line| {
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
    fn the_freezer_is_found_among_the_hierarchies() {
        let freezer = |text: &str| parse_freezer(text.as_bytes());
        assert_eq!(freezer("5:freezer:/a:b\n0::/x\n").as_deref(), Some("/a:b"));
        assert_eq!(freezer("3:cpu,freezer:/a\n").as_deref(), Some("/a"));
        assert_eq!(freezer("5:freezer:/\n0::/freezer\n"), None);
        assert_eq!(freezer("0::/a\n"), None);
    }
}
