//! Processes, as the kernel reports them.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::wait::until;

pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A field of `/proc/PID/stat`, counted as in `proc_pid_stat(5)`, from the third on; `None` where
/// the process is gone.
pub fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(number - 3).map(str::to_owned)
}

pub fn state(pid: u32) -> Option<char> {
    stat_field(pid, 3)?.chars().next()
}

/// Whether it exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

pub fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

pub fn start_tick(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// Live processes whose arguments or environment contain `text`, except this one.
pub fn processes_with(text: &str) -> Vec<u32> {
    let own = std::process::id();
    let holds = |pid: &u32| {
        ["cmdline", "environ"].iter().any(|file| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    pids().into_iter().filter(|&pid| pid != own && is_alive(pid)).filter(holds).collect()
}

/// Zombies among them.
pub fn children(of: u32) -> Vec<u32> {
    pids().into_iter().filter(|&pid| parent(pid) == Some(of)).collect()
}

pub fn zombies_of(pid: u32) -> Vec<u32> {
    children(pid).into_iter().filter(|&child| state(child) == Some('Z')).collect()
}

/// The names of its threads, cut off after 15 characters.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// `/proc/PID/status`; empty where the process is gone.
pub fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Whether all of its uids are this one.
pub fn is_only(pid: u32, uid: u32) -> bool {
    status(pid).contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"))
}

pub fn pidfd(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// One process, held by its pidfd: not affected by PID reuse.
#[derive(Debug)]
pub struct PidfdWatch {
    pid: u32,
    /// `None` if it was dead and reaped before this call.
    fd: Option<OwnedFd>,
}

impl PidfdWatch {
    #[track_caller]
    pub fn on(pid: u32) -> Self {
        Self::find(pid).unwrap_or_else(|| panic!("process {pid} is not there"))
    }

    pub fn find(pid: u32) -> Option<Self> {
        Some(Self { pid, fd: Some(pidfd(pid)?) })
    }

    /// It was reported as running a moment ago: it may have ended since.
    #[track_caller]
    pub fn on_one_that_ran(pid: u32) -> Self {
        let fd = pidfd(pid);
        assert!(fd.is_some() || !Path::new(&format!("/proc/{pid}")).exists(), "{pid} is there");
        Self { pid, fd }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// By the kernel's report: a zombie is dead, unless threads of it live on.
    pub fn is_dead(&self) -> bool {
        self.dies_within(Duration::ZERO)
    }

    /// Sleeps to the microsecond, or as precisely as the machine wakes us.
    pub fn dies_within(&self, limit: Duration) -> bool {
        self.fd.as_ref().is_none_or(|fd| {
            let mut fds = [PollFd::new(fd, PollFlags::IN)];
            let limit = Timespec::try_from(limit).expect("a finite time");
            poll(&mut fds, Some(&limit)).expect("poll") > 0
        })
    }

    /// Sends SIGKILL, if it is not reaped yet.
    pub fn send_kill(&self) {
        if let Some(fd) = &self.fd {
            let _ = pidfd_send_signal(fd.as_fd(), Signal::KILL);
        }
    }

    /// Kills a process that is alive, and waits until it is dead.
    #[track_caller]
    pub fn kill(&self) {
        let fd = self.fd.as_ref().unwrap_or_else(|| panic!("process {} had ended", self.pid));
        pidfd_send_signal(fd, Signal::KILL).expect("killed");
        until("it is dead", || self.is_dead());
    }
}
