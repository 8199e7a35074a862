//! Determines which pids were allocated since a process started.
//!
//! The kernel allocates pids in ascending order: each is the first free one above the last
//! (`alloc_pid` in its `kernel/pid.c`), and `/proc/sys/kernel/ns_last_pid` contains the last one of
//! our namespace (Linux 3.3). A descendant of a process, even in a nested namespace, has a pid
//! between that process's pid and the last one, as long as the pids have not wrapped around in
//! between. Only a process that restores a checkpoint chooses pids (`CAP_CHECKPOINT_RESTORE`),
//! which tasks do not do.

use std::{fs, ops::RangeInclusive, sync::OnceLock, time::Duration};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{Proc, age, number};
use crate::identity::{Identity, Pid};

/// The shortest time in which a processor can allocate a pid: the cheapest clone(2) takes several
/// microseconds.
const LEAST_PER_PID: Duration = Duration::from_micros(4);

impl Proc {
    /// Returns the pids that were allocated since that of `first`, a process that still exists;
    /// `None` if they may have wrapped around, or the kernel does not report them.
    pub(crate) fn allocated_since(&self, first: &Identity) -> Option<RangeInclusive<u32>> {
        if age(first.start_tick) >= shortest_round()? {
            return None;
        }
        let last = self.last_allocated()?;
        // Past the highest pid they wrap around. This is rare, and then all processes are scanned.
        (last >= first.pid).then(|| first.pid.get() + 1..=last.get())
    }

    /// Returns the pid that was allocated last; `None` if the kernel does not report it.
    pub(crate) fn last_allocated(&self) -> Option<Pid> {
        self.read_last_allocated().ok().flatten()
    }

    fn read_last_allocated(&self) -> Result<Option<Pid>, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, "sys/kernel/ns_last_pid", flags, Mode::empty())?;
        let mut text = [0_u8; 32];
        let length = rustix::io::read(&file, &mut text)?;
        Ok(number::<i64>(text[..length].trim_ascii_end()).and_then(Pid::new))
    }
}

/// Reports whether a pid that has become free certainly cannot be reused within `span`.
pub(crate) fn cannot_be_reused_within(span: Duration) -> bool {
    shortest_round().is_some_and(|round| round > span)
}

/// Returns a time within which the pids cannot wrap around, however busy the machine is.
fn shortest_round() -> Option<Duration> {
    static KNOWN: OnceLock<Option<Duration>> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let highest = fs::read("/proc/sys/kernel/pid_max").ok()?;
        let highest: u32 = number(highest.trim_ascii_end())?;
        let processors = fs::read_to_string("/proc/stat").ok()?;
        let is_one = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        let processors = u32::try_from(processors.lines().filter(is_one).count()).ok()?;
        // Halved, since some pids are in use and are skipped.
        Some(LEAST_PER_PID * (highest / processors.max(1) / 2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Pinned, current_pid_scope};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "children of a test, which waits for them")]
    fn a_child_has_one_of_the_pids_allocated_since_an_older_sibling() {
        let proc = Proc::open().expect("/proc");
        let sleep = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").spawn().expect("it runs")
        };
        let (mut elder, mut younger) = (sleep(), sleep());
        let pid = Pid::new(i64::from(elder.id())).expect("a pid");
        let pinned = Pinned::open(&proc, current_pid_scope().expect("a scope"), pid);
        let identity = pinned.expect("a lookup").expect("alive").identity;
        let since = proc.allocated_since(&identity);
        for child in [&mut elder, &mut younger] {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
        // This is unknown on a starved machine, or after the pids have wrapped around.
        if let Some(since) = since {
            assert!(!since.contains(&elder.id()));
            assert!(since.contains(&younger.id()) || younger.id() < elder.id(), "{since:?}");
        }
    }

    #[test]
    fn the_pids_allocated_since_a_long_lived_process_are_unknown() {
        let proc = Proc::open().expect("/proc");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let scope = current_pid_scope().expect("a scope");
        let me = Pinned::open(&proc, scope, own).expect("a lookup").expect("alive").identity;
        let since_boot = Identity { start_tick: 0, ..me };
        let round = shortest_round().expect("known");
        assert!(crate::sys::boot_clock() < round || proc.allocated_since(&since_boot).is_none());
    }
}
