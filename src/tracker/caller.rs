//! The process on whose behalf a host runs its tasks, and what happens to a task when that process
//! ends.
//!
//! A host that is only an intermediary, such as `procledger run` below an agent, survives the crash
//! of its caller, and so do its tasks. The caller is pinned by a pidfd, so that its end is detected
//! whichever process is its parent, and so that PID reuse cannot hide it. Its identity is also in
//! the host's lock file, so that another instance can detect that the caller has ended even while
//! the host itself is stopped.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid},
    redact::mask_command,
    sys::{PidFd, Pinned, Proc, current_pid_scope, lock_note::NotedCaller},
};

/// Maximum length of a caller's command in a rule, in characters.
const COMMAND_LIMIT: usize = 120;

/// The process for which a host runs its tasks, pinned by a pidfd; see
/// [`Builder::caller`](crate::Builder::caller).
///
/// The pidfd is readable once the caller has ended: poll it, and then call
/// [`Tracker::end_orphaned`](crate::Tracker::end_orphaned).
///
/// ```
/// use procledger::Caller;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut child = std::process::Command::new("sleep").arg("300").spawn()?;
/// let caller = Caller::pin(child.id(), None)?;
/// assert!(!caller.has_ended()?);
/// child.kill()?;
/// child.wait()?;
/// assert!(caller.has_ended()?);
/// assert!(Caller::pin(child.id(), None).is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    identity: Identity,
    /// Masked.
    command: String,
    pidfd: Arc<PidFd>,
}

impl Caller {
    /// Pins the process that has this PID now. With `start_tick`, field 22 of `/proc/PID/stat`
    /// (`proc_pid_stat(5)`), the process must have been started in that tick, so that PID reuse
    /// before this call is detected as well.
    ///
    /// # Errors
    ///
    /// [`is_gone`](Error::is_gone) if the process has ended, or its PID was reused; invalid input
    /// for the PID of this process; [`is_unknown`](Error::is_unknown) if `/proc` does not show the
    /// process.
    pub fn pin(pid: u32, start_tick: Option<u64>) -> Result<Self> {
        let pid = Pid::new(pid.into()).ok_or_else(|| Error::invalid("no process has PID 0"))?;
        if pid.get() == std::process::id() {
            return Err(Error::invalid(format!("process {pid} cannot be its own owner")));
        }
        let gone = |what| Error::new(Kind::Gone, format!("process {pid} {what}"));
        let proc = Proc::open()?;
        let pinned = Pinned::open(&proc, current_pid_scope()?, pid)?;
        let pinned = pinned.ok_or_else(|| gone("does not exist"))?;
        if start_tick.is_some_and(|tick| tick != pinned.identity.start_tick) {
            return Err(gone("is not the intended one: its PID was reused"));
        }
        let command = proc.command(pid)?.unwrap_or_default();
        // The arguments of a dead process are empty, so the check comes last.
        if pinned.is_dead()? {
            return Err(gone("has ended"));
        }
        let command = printable(&command, &pinned.stat.comm);
        Ok(Self { identity: pinned.identity, command, pidfd: pinned.into_fd() })
    }

    /// Pins the parent of this process.
    ///
    /// A parent that ended before this call cannot be pinned, since the parent of an orphan is its
    /// reaper. If the reaper is the init of the machine, or the parent ends during this call, that
    /// is an error. Below a subreaper, or the init of a container, this is not detected; there the
    /// caller should pass its own PID to [`pin`](Self::pin).
    ///
    /// # Errors
    ///
    /// [`is_gone`](Error::is_gone) if the parent has ended; [`is_unknown`](Error::is_unknown) if it
    /// is outside this PID namespace.
    pub fn parent() -> Result<Self> {
        let parent = rustix::process::getppid().ok_or_else(|| {
            let why = "the parent of this process is outside its PID namespace";
            Error::new(Kind::Unknown, why)
        })?;
        let gone = || Error::new(Kind::Gone, "the parent of this process has ended already");
        if parent.is_init() && current_pid_scope()?.is_initial() {
            return Err(gone());
        }
        let caller = Self::pin(parent.as_raw_nonzero().get().cast_unsigned(), None);
        if rustix::process::getppid() != Some(parent) {
            return Err(gone());
        }
        caller
    }

    /// Returns whether the caller has ended. A zombie counts as ended.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be queried.
    pub fn has_ended(&self) -> Result<bool> {
        self.pidfd.is_dead()
    }

    /// Returns the data of the caller for the host's lock file.
    pub(in crate::tracker) fn note(&self) -> NotedCaller {
        let Identity { pid, start_tick, pidfd_inode, .. } = self.identity;
        NotedCaller { pid, start_tick, pidfd_inode, command: self.command.clone() }
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Formats the PID and the command, in which secrets are masked.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note().fmt(f)
    }
}

/// Returns the command in one line of limited length, with secrets masked, or the name of a process
/// that has no arguments.
fn printable(command: &[Vec<u8>], comm: &[u8]) -> String {
    let command = command.iter().map(|word| String::from_utf8_lossy(word).into_owned());
    let mut text = mask_command(&command.collect::<Vec<_>>()).join(" ");
    if text.is_empty() {
        text = String::from_utf8_lossy(comm).into_owned();
    }
    let shown = |char: char| if char.is_control() { '?' } else { char };
    text.chars().take(COMMAND_LIMIT).map(shown).collect()
}
