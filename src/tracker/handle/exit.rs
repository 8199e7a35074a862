//! How a program ended, and why.

use std::{fmt, os::unix::process::ExitStatusExt, process};

use crate::{
    error::Error,
    model::{EndReason, Evidence, ExitStatus, Justification, Life, ProcessRecord, State},
    tracker::{core::Core, runtime::tracked::Tracked},
};

/// How a program ended, and why. Comparing it with an [`ExitStatus`] compares its status.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
/// use std::time::Duration;
/// use procledger::{EndReason, ExitStatus, Job};
///
/// let job = Job::new("task-42", "sleep").arg("3600").max_runtime(Duration::from_millis(50));
/// let exit = tracker.spawn(job)?.wait()?;
/// assert_eq!((exit.reason, exit.signal()), (EndReason::MaxRuntime, Some(15)));
/// assert_eq!(exit, ExitStatus::Signaled(15));
/// println!("{exit}"); // signal 15 (max_runtime: ran for … of at most …)
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// Its exit status.
    pub status: ExitStatus,
    /// Why it ended. [`Exited`](EndReason::Exited) if neither the tracker nor the kernel's
    /// out-of-memory killer ended it, even if a signal from another process did.
    pub reason: EndReason,
    /// The rule and the evidence by which it was ended; `None` if it ended by itself.
    pub because: Option<Justification>,
    /// The person who requested its end, if the reason is [`Killed`](EndReason::Killed).
    pub requested_by: Option<String>,
    /// Whether it dumped core; `false` if that is not known, for example because its end was not
    /// observed.
    pub core_dumped: bool,
}

impl Exit {
    /// Returns whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Returns the exit code, if it called exit(3).
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the signal, if one ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    fn by_itself(status: ExitStatus) -> Self {
        Self {
            status,
            reason: EndReason::Exited,
            because: None,
            requested_by: None,
            core_dumped: false,
        }
    }

    /// Returns the exit that a row records; `None` if its process has not ended.
    pub(in crate::tracker) fn of_row(row: ProcessRecord) -> Option<Self> {
        let Life::Ended(end) = row.life else { return None };
        Some(Self {
            status: end.status,
            reason: end.reason,
            because: end.because,
            requested_by: row.requested_by,
            core_dumped: end.core_dumped,
        })
    }
}

impl PartialEq<ExitStatus> for Exit {
    fn eq(&self, status: &ExitStatus) -> bool {
        self.status == *status
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        exit.status
    }
}

/// Converts like [`ExitStatus`], with the flag of a core dump.
impl TryFrom<Exit> for process::ExitStatus {
    type Error = Error;

    fn try_from(exit: Exit) -> Result<Self, Error> {
        /// `WCOREFLAG` of wait(2).
        const CORE: i32 = 0x80;
        let status = Self::try_from(exit.status)?;
        let dumped = exit.core_dumped && status.signal().is_some();
        Ok(if dumped { Self::from_raw(status.into_raw() | CORE) } else { status })
    }
}

/// Formats the status, and why it was ended.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        match &self.because {
            Some(because) => write!(f, " ({}: {})", self.reason, because.rule),
            None if self.reason == EndReason::Exited => Ok(()),
            None => write!(f, " ({})", self.reason),
        }
    }
}

/// Returns the exit of a dead process of ours; `None` if the ledger must be read for its reason.
pub(in crate::tracker) fn exit_without_reading(
    entry: &Tracked,
    status: ExitStatus,
) -> Option<Exit> {
    let exit = Exit { core_dumped: entry.has_dumped_core(), ..Exit::by_itself(status) };
    entry.has_ended_by_itself().then_some(exit)
}

/// Returns the exit of a dead process of ours. While the rest of its tree is still being ended, or
/// if the ledger cannot be read or written, the reason is the one known in memory.
pub(in crate::tracker) fn exit_of(core: &Core, entry: &Tracked, status: ExitStatus) -> Exit {
    if let Some(exit) = exit_without_reading(entry, status) {
        return exit;
    }
    let row = core.store.process(entry.root.row).ok().flatten();
    // A request whose claim was given back, because the requesting command died, has ended nothing.
    let is_being_ended = |row: &&ProcessRecord| row.life.state() == State::Ending;
    let requested_by = row.as_ref().filter(is_being_ended).and_then(|row| row.requested_by.clone());
    let core_dumped = entry.has_dumped_core();
    if let Some(exit) = row.and_then(Exit::of_row) {
        return Exit { status, core_dumped: core_dumped || exit.core_dumped, ..exit };
    }
    let known = entry.cause().or_else(|| {
        let (reason, rule) = entry.ending()?;
        Some((reason, Some(Justification::new(&rule, Evidence::Root))))
    });
    let by_request = || requested_by.is_some().then_some((EndReason::Killed, None));
    let (reason, because) = known.or_else(by_request).unwrap_or((EndReason::Exited, None));
    Exit { status, reason, because, requested_by, core_dumped }
}
