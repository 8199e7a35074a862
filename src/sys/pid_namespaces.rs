//! Determines which PID namespaces below the initial one exist, as seen from the initial one.
//!
//! The first process of a PID namespace outlives all others in it: when it ends the kernel kills
//! them, and it is reaped after the last of them (`pid_namespaces(7)`). It was also started before
//! all of them. So it suffices to scan for first processes, and to scan once: a process that exists
//! during the whole scan is listed. A namespace whose first process is gone has no process at all,
//! and never will have one again. Its number may be reused for a new namespace, whose first process
//! is younger than everything that was recorded in the old one.

use std::os::unix::fs::MetadataExt;

use super::{PidFd, Proc};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope},
};

/// Nanoseconds in a clock tick of `/proc`.
const TICK_NANOS: i128 = 10_000_000;
/// Tolerance of a comparison across two clocks, since both start ticks are truncated.
const SLACK: i128 = 2;

/// The first processes of the existing PID namespaces.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    inits: Vec<Init>,
}

#[derive(Debug)]
struct Init {
    pid: Pid,
    /// When the process was started, in ticks of the initial clock.
    started: i128,
    /// The inode of its namespace, or why that cannot be read.
    namespace: std::result::Result<u64, String>,
}

impl Namespaces {
    /// Scans every process.
    ///
    /// # Errors
    ///
    /// [`Kind::Unknown`] if a scan proves nothing: outside the initial namespace, or if processes
    /// are hidden.
    pub(crate) fn scan(proc: &Proc, here: PidScope) -> Result<Self> {
        let unknown = |why: &str| Error::new(Kind::Unknown, why);
        if !here.is_initial() {
            return Err(unknown("other PID namespaces can only be seen from the initial one"));
        }
        if proc.hides_others() {
            return Err(unknown("`/proc` hides processes (hidepid)"));
        }
        let mut inits = Vec::new();
        for pid in proc.pids()? {
            inits.extend(first_of_a_namespace(proc, here, pid)?);
        }
        Ok(Self { inits })
    }

    /// Reports whether no process is left in the PID namespace of a process that was recorded as
    /// `identity` in this boot.
    ///
    /// # Errors
    ///
    /// [`Kind::Unknown`] if a process that is old enough to be the first one of that namespace
    /// cannot be read, for example because it belongs to another user.
    pub(crate) fn is_gone(&self, identity: &Identity) -> Result<bool> {
        let started = ticks(identity.start_tick, &identity.scope);
        for init in self.inits.iter().filter(|init| init.started <= started + SLACK) {
            match &init.namespace {
                Ok(inode) if *inode == identity.scope.pid_namespace => return Ok(false),
                Ok(_) => {}
                Err(why) => {
                    let what =
                        format!("the PID namespace of process {} is unknown: {why}", init.pid);
                    return Err(Error::new(Kind::Unknown, what));
                }
            }
        }
        Ok(true)
    }
}

/// Converts a start tick to the initial clock (`time_namespaces(7)`).
fn ticks(start_tick: u64, scope: &PidScope) -> i128 {
    i128::from(start_tick) - i128::from(scope.boottime_offset) / TICK_NANOS
}

/// Returns the process if it is the first one of a nested namespace; `None` for any other process,
/// and for one that is gone.
fn first_of_a_namespace(proc: &Proc, here: PidScope, pid: Pid) -> Result<Option<Init>> {
    let Some(status) = proc.status(pid)? else { return Ok(None) };
    match status.namespace_pids.as_slice() {
        // Kernels before 4.1 show none.
        [] => return Err(Error::new(Kind::Unknown, "this kernel shows no `NSpid`")),
        [_, .., 1] => {}
        _ => return Ok(None),
    }
    let namespace = match std::fs::metadata(format!("/proc/{pid}/ns/pid")) {
        Ok(namespace) => Ok(namespace.ino()),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let Some(stat) = proc.stat(pid)? else { return Ok(None) };
    // All its threads are dead and only its parent has not reaped it yet: all other processes of
    // its namespace ended before it.
    if stat.is_zombie() && PidFd::open(pid)?.is_none_or(|fd| fd.is_dead().unwrap_or(false)) {
        return Ok(None);
    }
    Ok(Some(Init { pid, started: ticks(stat.start_tick, &here), namespace }))
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::current_pid_scope;

    fn recorded(pid_namespace: u64, start_tick: u64, boottime_offset: i64) -> Identity {
        let scope = PidScope {
            machine_id: None,
            boot_id: uuid::Uuid::from_u128(1),
            pid_namespace,
            boottime_offset,
        };
        Identity { scope, pid: Pid::new(7).expect("valid"), start_tick, pidfd_inode: None }
    }

    fn seen(started: i128, namespace: std::result::Result<u64, String>) -> Namespaces {
        Namespaces { inits: vec![Init { pid: Pid::new(9).expect("valid"), started, namespace }] }
    }

    #[test]
    fn a_namespace_is_gone_without_a_first_process_or_with_a_younger_one() {
        let gone = |recorded: Identity| seen(500, Ok(4_026_532_001)).is_gone(&recorded);
        assert!(gone(recorded(4_026_532_002, 600, 0)).expect("known"));
        assert!(!gone(recorded(4_026_532_001, 600, 0)).expect("known"));
        assert!(!gone(recorded(4_026_532_001, 499, 0)).expect("known"), "ticks are cut off");
        assert!(gone(recorded(4_026_532_001, 400, 0)).expect("known"), "its number was reused");
        // 1,000 ticks by a clock that is 6 s ahead are 400.
        assert!(gone(recorded(4_026_532_001, 1_000, 6_000_000_000)).expect("known"));
        assert!(!gone(recorded(4_026_532_001, 1_200, 6_000_000_000)).expect("known"));
    }

    #[test]
    fn a_first_process_that_may_not_be_read_leaves_what_is_younger_unknown() {
        let unreadable = seen(500, Err("Permission denied".into()));
        assert!(unreadable.is_gone(&recorded(4_026_532_001, 600, 0)).is_err());
        assert!(unreadable.is_gone(&recorded(4_026_532_001, 400, 0)).expect("known"));
    }

    #[test]
    fn only_the_initial_namespace_sees_all_others() {
        let proc = Proc::open().expect("/proc");
        let here = current_pid_scope().expect("a scope");
        let inside = PidScope { pid_namespace: 4_026_532_000, ..here };
        assert!(Namespaces::scan(&proc, inside).is_err());
    }
}
