//! The handle to one spawned program, with which to wait for it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    exit::{Exit, exit_of},
    job_control::JobControl,
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{EndPlan, EndReason, ExitStatus, ProcessId, Report, RuleKey, TaskId},
    sys::{PidFd, Signal},
    tracker::{
        core::Core,
        end::{
            background,
            exit_statuses::{self, REAPED_WITHIN, STATUS_PAUSE},
            settle,
            signal_tree::signal_tree,
            suspend,
        },
        runtime::{
            background_ends::Due,
            cause::Cause,
            tracked::{StatusReading, Tracked},
        },
    },
};

/// How long a waiter waits for the record of a death, which takes milliseconds unless the ledger
/// cannot be written.
pub(in crate::tracker) const RECORD_LIMIT: Duration = Duration::from_secs(1);

/// One spawned program, or registered process.
///
/// Dropping it closes the host's ends of the pipes, but kills nothing, and the tracker still tracks
/// the process. With [`Job::terminate_on_drop`](crate::Job::terminate_on_drop), dropping it ends
/// the program's tree in the background.
#[derive(Debug)]
pub struct Process {
    /// The pipe to its standard input, if [`Stdio::piped`](crate::Stdio::piped) was requested.
    pub stdin: Option<ChildStdin>,
    /// The pipe from its standard output.
    pub stdout: Option<ChildStdout>,
    /// The pipe from its standard error.
    pub stderr: Option<ChildStderr>,
    pub(in crate::tracker) core: Arc<Core>,
    pub(in crate::tracker) entry: Arc<Tracked>,
    pub(in crate::tracker) pidfd: Arc<PidFd>,
    pub(in crate::tracker) job_control: Option<JobControl>,
    pub(in crate::tracker) on_drop: TerminateOnDrop,
}

impl Process {
    pub(in crate::tracker) fn new(core: Arc<Core>, entry: Arc<Tracked>, pidfd: Arc<PidFd>) -> Self {
        let terminate = TerminateOnDrop {
            armed: false,
            in_set: None,
            core: Arc::clone(&core),
            entry: Arc::clone(&entry),
        };
        Self {
            stdin: None,
            stdout: None,
            stderr: None,
            core,
            entry,
            pidfd,
            job_control: None,
            on_drop: terminate,
        }
    }

    /// Returns its row number in the ledger; see [`Ledger::process`](crate::Ledger::process).
    pub fn id(&self) -> ProcessId {
        self.entry.root.row
    }

    /// Returns its PID. Do not signal the process by its PID: use [`signal`](Self::signal) or
    /// [`terminate`](Self::terminate).
    pub fn pid(&self) -> Pid {
        self.entry.root.identity.pid
    }

    /// Returns the task for which it runs.
    #[expect(clippy::missing_panics_doc, reason = "a spawned process always has a task")]
    pub fn task_id(&self) -> &TaskId {
        self.entry.root.task.as_ref().expect("a spawned process has a task")
    }

    /// Returns whether it has the terminal, as [`Job::foreground`](crate::Job::foreground) requests
    /// or because it needed it, or had it when it ended.
    pub fn is_foreground(&self) -> bool {
        self.job_control.as_ref().is_some_and(|control| control.has_terminal)
    }

    /// Returns whether it is in the session of this process, which has a terminal.
    pub fn shares_terminal(&self) -> bool {
        self.job_control.is_some()
    }

    /// Waits until the program has ended and its end is in the ledger; returns how it ended and
    /// why.
    ///
    /// The monitor ends the processes that it left behind at the same time; this does not wait for
    /// that. While a tracer (strace, gdb) holds the dead program, its status is not available, and
    /// this waits for it, like waitpid(2).
    ///
    /// # Errors
    ///
    /// Only if the kernel cannot be queried. A status that was taken elsewhere, for example by
    /// another thread of the host, is [`Unobserved`](ExitStatus::Unobserved) and not an error.
    pub fn wait(&mut self) -> Result<Exit> {
        // Standard input is closed, as by `std::process::Child::wait`, since a program that reads
        // it to the end would never end.
        self.stdin = None;
        loop {
            if let Some(exit) = self.wait_timeout(Duration::from_hours(1))? {
                return Ok(exit);
            }
        }
    }

    /// Returns how it ended, if it has ended.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Waits at most `timeout`; returns `None` if the program is still running then, or a tracer
    /// has not released it.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Exit>> {
        if self.core.instance.is_forked() {
            self.core.instance.check_usable()?;
        }
        let deadline = Instant::now().checked_add(timeout);
        if !self.pidfd.wait_dead(timeout)? {
            return Ok(None);
        }
        Ok(self.learn_status(deadline).map(|status| self.ended(status)))
    }

    /// Returns the status of the dead program; `None` if it is not available before the deadline.
    fn learn_status(&self, deadline: Option<Instant>) -> Option<ExitStatus> {
        let mut untraced = None;
        loop {
            let now = Instant::now();
            let until = deadline.map_or(now + STATUS_PAUSE, |end| end.min(now + STATUS_PAUSE));
            match self.entry.learn_status(&self.pidfd, until) {
                StatusReading::Status(status) => return Some(status),
                StatusReading::Unreaped if !exit_statuses::is_traced(&self.core, &self.entry) => {
                    if untraced.get_or_insert(now).elapsed() > REAPED_WITHIN {
                        return Some(self.entry.publish(ExitStatus::Unobserved));
                    }
                }
                StatusReading::NotYet | StatusReading::Unreaped => {}
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return None;
            }
            // No event reports that a tracer has released it.
            std::thread::sleep(STATUS_PAUSE);
        }
    }

    /// Makes sure that the end of the dead program is recorded.
    fn ended(&self, status: ExitStatus) -> Exit {
        let deadline = Instant::now() + RECORD_LIMIT;
        let watched = self.entry.pidfd.is_some() && self.core.passes.is_monitoring();
        if !watched {
            settle::settle(&self.core, &[(Arc::clone(&self.entry), Arc::clone(&self.pidfd))]);
        }
        self.entry.wait_recorded(deadline);
        exit_of(&self.core, &self.entry, status)
    }

    /// Ends the program's whole tree: SIGTERM or its stop signals, the grace period, SIGKILL. The
    /// report has the outcome for each member.
    ///
    /// # Errors
    ///
    /// [`is_closed`](Error::is_closed) after shutdown. Processes that could not be ended are in the
    /// report, and are not an error.
    pub fn terminate(&mut self) -> Result<Report> {
        self.terminate_with(&EndPlan::new())
    }

    /// Ends the program's whole tree according to `plan`, like
    /// [`Tracker::terminate_with`](crate::Tracker::terminate_with).
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Self::terminate); invalid input, as for
    /// [`Tracker::kill_with`](crate::Tracker::kill_with).
    pub fn terminate_with(&mut self, plan: &EndPlan) -> Result<Report> {
        settle::terminate_entries(&self.core, std::slice::from_ref(&self.entry), plan)
    }

    /// Sends a signal, by its number in signal(7), to the program itself and to no other process.
    ///
    /// The numbers are those of the kernel, 1 to 64. Real-time signals are 34 (`SIGRTMIN` of glibc;
    /// 35 of musl) to 64; 32, 33 and musl's 34 are used by the C library between threads of one
    /// process, and are sent as they are.
    ///
    /// # Errors
    ///
    /// Invalid input for any other number, including 0; [`is_gone`](Error::is_gone) if the program
    /// has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.signaller().signal(signal)
    }

    /// Sends a signal, by its number in signal(7), to the process group that the program leads, as
    /// a terminal does at Ctrl-C. Before Linux 6.9, or if the program leads no group, only the
    /// program gets the signal ([`Job::process_group`](crate::Job::process_group)).
    ///
    /// A program such as make(1), which waits until Ctrl-C has ended its children, does not end if
    /// only it gets SIGINT.
    ///
    /// # Errors
    ///
    /// As for [`signal`](Self::signal).
    pub fn signal_group(&self, signal: i32) -> Result<()> {
        self.signaller().send(signal, PidFd::send_to_group)
    }

    /// Sends a signal, by its number in signal(7), to the program and all processes that belong to
    /// its tree: those that [`terminate`](Self::terminate) would end now, wherever they are, and
    /// not only a process group as with killpg(3). Returns how many processes got the signal. Each
    /// is verified and gets it once; protected programs do not get it, and neither do processes
    /// that are forked from now on.
    ///
    /// The signal is not recorded: a program that ends because of it counts as ended by itself, and
    /// the processes that it leaves are ended as strays.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{ExitStatus, Job};
    ///
    /// let mut process = tracker.spawn(Job::new("task-42", "sleep").arg("300"))?;
    /// assert_eq!(process.signal_tree(2)?, 1);
    /// assert_eq!(process.wait()?, ExitStatus::Signaled(2));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Invalid input for a number that is no signal; [`is_gone`](Error::is_gone) if the program has
    /// ended; if the processes or the ledger cannot be read, in which case no process gets the
    /// signal; [`is_denied`](Error::is_denied) if a process of the tree may not be signalled; all
    /// others were signalled before.
    pub fn signal_tree(&self, signal: i32) -> Result<usize> {
        signal_tree(&self.core, &self.entry, signal)
    }

    /// Suspends the program and all processes that belong to its tree, and returns how many: its
    /// task cgroup is frozen, or each of them gets SIGSTOP until no running process of the tree is
    /// found. Protected programs continue to run.
    ///
    /// The suspension belongs to the tree, not to this handle: it lasts until
    /// [`resume`](Self::resume) is called on any handle. Whatever ends the tree resumes it first,
    /// so that it can react to its stop signals: [`terminate`](Self::terminate), a dropped handle
    /// with [`terminate_on_drop`](crate::Job::terminate_on_drop), a shutdown, `kill`, or after a
    /// crash a keeper or the next instance. Processes that the tracker releases are resumed: a
    /// program with [`survive`](crate::Job::survive) at shutdown, a task that is unregistered,
    /// strays that the job keeps. The time of [`max_runtime`](crate::Job::max_runtime) keeps
    /// running.
    ///
    /// A suspension is not a lock. Without a task cgroup, any process of the same user may send
    /// SIGCONT, and a process that has left the tree undetected (see `docs/strays.md`) continues to
    /// run. A program that waits for its children sees that they have stopped. The suspension is
    /// not recorded: if the host crashes meanwhile, a program with `survive` stays suspended until
    /// the instance that adopts it resumes it.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::Job;
    ///
    /// let process = tracker.spawn(Job::new("task-42", "sleep").arg("300"))?;
    /// assert_eq!(process.suspend()?, 1);
    /// assert_eq!(tracker.get("task-42")?.expect("it runs").resume()?, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_gone`](Error::is_gone) if the program has ended; [`is_busy`](Error::is_busy) if it is
    /// being ended, or its tree forks faster than it can be stopped;
    /// [`is_denied`](Error::is_denied) if a process of the tree may not be signalled; if the
    /// processes or the ledger cannot be read. After each of these errors the tree is resumed.
    pub fn suspend(&self) -> Result<usize> {
        suspend::suspend(&self.core, &self.entry)
    }

    /// Resumes all processes of the program's tree, however they were stopped, and returns how many
    /// there are.
    ///
    /// # Errors
    ///
    /// [`is_gone`](Error::is_gone) if the program has ended; if the processes or the ledger cannot
    /// be read; [`is_denied`](Error::is_denied) if a process of the tree may not be signalled; all
    /// others were signalled before.
    pub fn resume(&self) -> Result<usize> {
        suspend::resume(&self.core, &self.entry)
    }

    /// Sends SIGKILL to the program itself, like [`std::process::Child::kill`]. The tracker then
    /// ends the processes that it started, as strays. To end the whole tree, use
    /// [`terminate`](Self::terminate).
    ///
    /// # Errors
    ///
    /// If the kernel refuses it. It is not an error if the program has already ended.
    pub fn kill(&mut self) -> Result<()> {
        self.signaller().kill()
    }

    /// Returns a handle that signals the program while this one waits for it.
    pub fn signaller(&self) -> Signaller {
        Signaller { pid: self.pid(), pidfd: Arc::clone(&self.pidfd) }
    }
}

impl AsFd for Process {
    /// Returns its pidfd, which is readable once the program is dead (`pidfd_open(2)`), for
    /// poll(2), epoll or mio. Do not reap the program through it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Ends the tree of a program when its handle is dropped, if that was requested.
///
/// This is a field of the handle, which has no `Drop` of its own, so that callers can move the
/// pipes out of it.
#[derive(Debug)]
pub(in crate::tracker) struct TerminateOnDrop {
    pub(in crate::tracker) armed: bool,
    /// Whether the set that contains the handle still ends its programs; `None` outside a set.
    pub(in crate::tracker) in_set: Option<Arc<AtomicBool>>,
    core: Arc<Core>,
    entry: Arc<Tracked>,
}

impl TerminateOnDrop {
    /// Ends the tree in the background, unless the program has ended. Never waits, since a future
    /// may be dropped on a runtime's thread.
    pub(in crate::tracker) fn end_in_background(&self, rule: RuleKey) {
        // A shutdown that has begun ends the tree, or has ended it. Otherwise a shutdown waits for
        // the end that is started here.
        let Some(open) = self.core.instance.hold_open() else { return };
        // A program that has ended by itself leaves only processes that it may leave.
        let has_ended = self.entry.status().is_some()
            || self.entry.pidfd.as_ref().is_some_and(|fd| fd.is_dead().unwrap_or(false));
        if !has_ended {
            let cause = Cause { reason: EndReason::Terminated, leak: None, rule: rule.into() };
            let entry = Arc::clone(&self.entry);
            background::end_in_background(&self.core, vec![Due { entry, cause, answer: None }]);
        }
        drop(open);
    }
}

impl Drop for TerminateOnDrop {
    fn drop(&mut self) {
        let is_detached = |set: &Arc<AtomicBool>| !set.load(Ordering::Acquire);
        if self.armed && !self.in_set.as_ref().is_some_and(is_detached) {
            self.end_in_background(RuleKey::HandleDropped);
        }
    }
}

/// Signals one program through its pidfd, from any thread; see [`Process::signaller`].
#[derive(Clone, Debug)]
pub struct Signaller {
    pid: Pid,
    pidfd: Arc<PidFd>,
}

impl Signaller {
    /// Sends a signal, by its number in signal(7), to the program itself and to no other process.
    ///
    /// The numbers are those of the kernel, 1 to 64. Real-time signals are 34 (`SIGRTMIN` of glibc;
    /// 35 of musl) to 64; 32, 33 and musl's 34 are used by the C library between threads of one
    /// process, and are sent as they are.
    ///
    /// # Errors
    ///
    /// Invalid input for any other number, including 0; [`is_gone`](Error::is_gone) if the program
    /// has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.send(signal, PidFd::send)
    }

    fn send<E: Into<io::Error>>(
        &self,
        signal: i32,
        send: impl FnOnce(&PidFd, Signal) -> std::result::Result<(), E>,
    ) -> Result<()> {
        let signal = Signal::from_number(signal).ok_or_else(|| {
            Error::invalid(format!("{signal} is not a signal number: use 1 to {}", Signal::LAST))
        })?;
        let pid = self.pid;
        // The descriptor is that of our own child, returned by clone, and needs no verification.
        if self.pidfd.is_dead()? {
            return Err(Error::new(Kind::Gone, format!("process {pid} has ended")));
        }
        send(&self.pidfd, signal)
            .map_err(|error| Error::os(format!("failed to signal process {pid}"), error))
    }

    /// Sends SIGKILL to the program itself, like [`Process::kill`].
    ///
    /// # Errors
    ///
    /// As for [`Process::kill`].
    pub fn kill(&self) -> Result<()> {
        match self.signal(libc::SIGKILL) {
            Err(error) if error.is_gone() => Ok(()),
            sent => sent,
        }
    }
}
