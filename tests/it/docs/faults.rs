//! Not a scenario: makes a disk full, a system call fail or a mount disappear, and restores it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::{Guard, Place, eventually, pidfd, until};

/// A small file system of its own. Only in a mount namespace that dies with the test, see
/// `support::in_namespace`.
pub(crate) struct SmallDisk {
    pub(crate) folder: PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount(place: &Place, kib: u32) -> Self {
        Self::mount_with(place, &format!("size={kib}k,mode=755"))
    }

    pub(crate) fn mount_with(place: &Place, options: &str) -> Self {
        let folder = place.path().join("disk");
        fs::create_dir(&folder).expect("a folder");
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs"], &folder);
        Self { folder }
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("filler"))
            .expect("a file");
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.folder.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a tracker of a failed test may still have files open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

pub(crate) fn run(tool: &str, args: &[&str], path: &Path) {
    let output = Command::new(tool).args(args).arg(path).output().expect("it is installed");
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A host whose system calls fail as long as this lives: strace(1) is attached to it, and detaches
/// on drop.
pub(crate) struct Fault {
    strace: Guard,
    host: u32,
}

impl Fault {
    /// `inject` is an expression of strace(1): `pwrite64:error=EIO`. If `paths` is not empty, only
    /// calls that name one of them, or a descriptor of it, count.
    pub(crate) fn on(place: &Place, host: u32, inject: &str, paths: &[&Path]) -> Self {
        let calls = inject.split(':').next().expect("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-p", &host.to_string(), "-o"]).arg(place.path().join("strace"));
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")]);
        for path in paths {
            command.arg("-P").arg(path);
        }
        let strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
        until("strace has every thread of the host", || {
            threads(host).into_iter().all(|thread| tracer(host, thread) == Some(strace.id()))
        });
        Self { strace: Guard(strace), host }
    }

    /// How often a call was made to fail so far.
    pub(crate) fn hits(place: &Place) -> usize {
        let log = fs::read_to_string(place.path().join("strace")).unwrap_or_default();
        log.lines().filter(|line| line.contains("(INJECTED)")).count()
    }

    /// The host continues without the fault.
    pub(crate) fn lift(mut self) {
        let fd = pidfd(self.strace.pid()).expect("strace lives");
        rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::INT).expect("sent");
        let host = self.host;
        eventually("strace has let go", || self.strace.0.try_wait().expect("a child"));
        until("the host is not traced", || {
            threads(host).into_iter().all(|thread| tracer(host, thread) == Some(0))
        });
    }
}

fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the host lives");
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn tracer(pid: u32, thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}
