//! What keeps a process from ending: its tracer, the freezer.

use super::procfs::{Proc, number};
use crate::identity::Pid;

impl Proc {
    /// Returns the process that traces this one (`ptrace(2)`). `TracerPid` in `proc_pid_status(5)` names one of its threads:
    /// for a debugger with several tracing threads, the one that traces.
    pub(crate) fn tracer(&self, pid: Pid) -> Option<Pid> {
        let mut buffer = Vec::new();
        let mut ask = |pid, label: &[u8]| {
            let there = self.read(pid, "status", &mut buffer, 16 << 10).ok()?;
            there.then(|| parse_pid(&buffer, label))?
        };
        let thread = ask(pid, b"TracerPid:")?;
        ask(thread, b"Tgid:")
    }

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

/// Parses the line of `/proc/PID/status` that begins with `label`; 0 there means none.
fn parse_pid(status: &[u8], label: &[u8]) -> Option<Pid> {
    let mut lines = status.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(label))?;
    number::<i64>(value.trim_ascii()).and_then(Pid::new)
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
    fn a_tracer_is_reported_where_there_is_one() {
        let tracer = |text: &str| parse_pid(text.as_bytes(), b"TracerPid:").map(Pid::get);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t812\nUid:\t0\n"), Some(812));
        assert_eq!(tracer("Name:\tTracerPid: 3\nTracerPid:\t0\n"), None);
        assert_eq!(tracer(""), None);
    }

    #[test]
    fn the_freezer_is_found_among_the_hierarchies() {
        let freezer = |text: &str| parse_freezer(text.as_bytes());
        assert_eq!(freezer("5:freezer:/a:b\n0::/x\n").as_deref(), Some("/a:b"));
        assert_eq!(freezer("3:cpu,freezer:/a\n").as_deref(), Some("/a"));
        assert_eq!(freezer("5:freezer:/\n0::/freezer\n"), None);
        assert_eq!(freezer("0::/a\n"), None);
    }
}
