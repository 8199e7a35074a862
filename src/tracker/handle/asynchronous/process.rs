//! Waits for one program, as a future.

use std::{
    future::poll_fn,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
    time::Instant,
};

use tokio::{
    net::unix::pipe::{Receiver, Sender},
    runtime::Id,
};

use super::aside;
use crate::{
    error::{Error, Result},
    identity::Pid,
    model::{EndPlan, ExitStatus, ProcessId, Report, RuleKey, TaskId},
    sys::{AsyncPidFd, current_runtime},
    tracker::{
        core::Core,
        end::{
            exit_statuses::{self, REAPED_WITHIN, STATUS_PAUSE},
            settle,
            signal_tree::signal_tree,
            suspend,
        },
        handle::{
            exit::{Exit, exit_of, exit_without_reading},
            process::{Process, RECORD_LIMIT, Signaller},
        },
        runtime::tracked::StatusReading,
    },
};

/// One spawned program, for use in a tokio runtime. Created by
/// [`AsyncTracker::spawn`](crate::AsyncTracker::spawn) or [`Process::into_async`].
///
/// Dropping it closes the host's ends of the pipes, but kills nothing, and the tracker still tracks
/// the process. If the program is of no use without its handle, set
/// [`Job::terminate_on_drop`](crate::Job::terminate_on_drop).
///
/// Its pipes are tokio's: `AsyncRead` and `AsyncWrite`, so that lines are read as they are printed.
///
/// ```
/// use procledger::{Job, Stdio, Tracker};
/// use tokio::io::{AsyncBufReadExt, BufReader};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?.into_async();
/// let job = Job::new("task-42", "sh").args(["-c", "echo one; echo two"]).stdout(Stdio::piped());
/// // The program ends with this handle, for example when the client that reads its lines goes away.
/// let mut process = tracker.spawn(job).await?.terminate_on_drop(true);
/// let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
/// let mut read = Vec::new();
/// while let Some(line) = lines.next_line().await? {
///     read.push(line);
/// }
/// assert_eq!(read, ["one", "two"]);
/// assert!(process.wait().await?.success());
/// # tracker.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// It is not bound to a runtime: [`wait`](Self::wait) and
/// [`wait_with_output`](Self::wait_with_output) can be called in a runtime other than the one in
/// which it was created, even after that one has ended. A pipe that is read or written directly
/// belongs to the runtime in which it was created; tokio's `into_nonblocking_fd` moves it to
/// another one.
#[derive(Debug)]
pub struct AsyncProcess {
    /// The pipe to its standard input, if [`Stdio::piped`](crate::Stdio::piped) was requested.
    pub stdin: Option<Sender>,
    /// The pipe from its standard output.
    pub stdout: Option<Receiver>,
    /// The pipe from its standard error.
    pub stderr: Option<Receiver>,
    pub(super) read: super::read_so_far::Read,
    process: Process,
    pidfd: AsyncPidFd,
    /// The runtime with which the pipes are registered.
    runtime: Option<Id>,
}

impl Process {
    /// Converts the handle for use in a tokio runtime. Its pipes become tokio's.
    ///
    /// # Errors
    ///
    /// If a pipe, or the pidfd, cannot be registered with the runtime, for example because there
    /// are too many descriptors. The process continues to run, and the tracker still tracks it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, and in a runtime that was built without `enable_all`.
    pub fn into_async(mut self) -> Result<AsyncProcess> {
        let pid = self.pid();
        let failed = |error| Error::os(format!("failed to wait for process {pid} in tokio"), error);
        let receiver = |pipe| Receiver::from_owned_fd(pipe).map_err(failed);
        let stdin = self.stdin.take().map(OwnedFd::from);
        let stdin = stdin.map(Sender::from_owned_fd).transpose().map_err(failed)?;
        let stdout = self.stdout.take().map(OwnedFd::from).map(receiver).transpose()?;
        let stderr = self.stderr.take().map(OwnedFd::from).map(receiver).transpose()?;
        let pidfd = AsyncPidFd::new(Arc::clone(&self.pidfd)).map_err(failed)?;
        let read = super::read_so_far::Read::default();
        Ok(AsyncProcess {
            stdin,
            stdout,
            stderr,
            read,
            process: self,
            pidfd,
            runtime: current_runtime(),
        })
    }
}

impl AsyncProcess {
    /// Returns its row number in the ledger; see [`Ledger::process`](crate::Ledger::process).
    pub fn id(&self) -> ProcessId {
        self.process.id()
    }

    /// Returns its PID, like [`Process::pid`].
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Returns the task for which it runs.
    pub fn task_id(&self) -> &TaskId {
        self.process.task_id()
    }

    /// Sets whether its tree is ended when this handle is dropped before the program has ended; by
    /// default as its job specifies.
    ///
    /// To cover a spawn that is cancelled before there is a handle, use
    /// [`Job::terminate_on_drop`](crate::Job::terminate_on_drop), which describes how the tree is
    /// ended.
    #[must_use]
    pub fn terminate_on_drop(mut self, on: bool) -> Self {
        self.process.on_drop.armed = on;
        self
    }

    /// Makes its tree end if the handle is dropped while `in_set` is true.
    pub(super) fn put_in_set(mut self, in_set: Arc<AtomicBool>) -> Self {
        self.process.on_drop.in_set = Some(in_set);
        self.terminate_on_drop(true)
    }

    /// Registers the pipes that are still here with the current runtime.
    pub(super) fn take_pipes_here(&mut self) -> Result<()> {
        let current = current_runtime();
        if current == self.runtime {
            return Ok(());
        }
        let pid = self.pid();
        let failed =
            |error| Error::os(format!("failed to use the pipes of process {pid} in tokio"), error);
        for pipe in [&mut self.stdout, &mut self.stderr] {
            if let Some(open) = pipe.take() {
                let fd = open.into_nonblocking_fd().map_err(failed)?;
                // The caller may have put a descriptor of another kind there.
                *pipe = Some(Receiver::from_owned_fd_unchecked(fd).map_err(failed)?);
            }
        }
        if let Some(open) = self.stdin.take() {
            let fd = open.into_nonblocking_fd().map_err(failed)?;
            self.stdin = Some(Sender::from_owned_fd_unchecked(fd).map_err(failed)?);
        }
        self.runtime = current;
        Ok(())
    }

    /// Waits until the program has ended and its end is in the ledger, like [`Process::wait`].
    ///
    /// Cancel safe: a dropped future has consumed nothing, and the next one returns the same
    /// result. The first call closes standard input.
    ///
    /// # Errors
    ///
    /// As for [`Process::wait`].
    ///
    /// # Panics
    ///
    /// In a runtime that was built without `enable_all`.
    pub async fn wait(&mut self) -> Result<Exit> {
        self.stdin = None;
        poll_fn(|cx| self.poll_dead(cx)).await?;
        self.ended().await
    }

    /// Returns how it ended, if it has ended, like [`Process::try_wait`]. Blocks while the end is
    /// being recorded.
    ///
    /// # Errors
    ///
    /// As for [`Process::wait`].
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.process.try_wait()
    }

    /// Ends the program's whole tree, like [`Process::terminate`]. The tree is ended even if the
    /// future is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Process::terminate`]; [`is_closed`](Error::is_closed) also if the runtime is
    /// shutting down.
    pub async fn terminate(&mut self) -> Result<Report> {
        self.terminate_with(&EndPlan::new()).await
    }

    /// Does the same, but the settings of `plan` replace the job's, like
    /// [`Process::terminate_with`].
    ///
    /// # Errors
    ///
    /// As for [`Process::terminate_with`]; [`is_closed`](Error::is_closed) also if the runtime is
    /// shutting down.
    pub async fn terminate_with(&mut self, plan: &EndPlan) -> Result<Report> {
        let (core, entry) = (Arc::clone(&self.process.core), Arc::clone(&self.process.entry));
        let plan = plan.clone();
        aside(move || settle::terminate_entries(&core, std::slice::from_ref(&entry), &plan)).await?
    }

    /// Sends a signal, by its number in signal(7), to the program itself and to no other process.
    ///
    /// # Errors
    ///
    /// As for [`Process::signal`].
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// Sends a signal to all processes of the program's tree, like [`Process::signal_tree`]. They
    /// get it even if the future is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Process::signal_tree`]; [`is_closed`](Error::is_closed) also if the runtime is
    /// shutting down.
    pub async fn signal_tree(&self, signal: i32) -> Result<usize> {
        let (core, entry) = (Arc::clone(&self.process.core), Arc::clone(&self.process.entry));
        aside(move || signal_tree(&core, &entry, signal)).await?
    }

    /// Suspends all processes of the program's tree, like [`Process::suspend`], even if the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Process::suspend`]; [`is_closed`](Error::is_closed) also if the runtime is shutting
    /// down.
    pub async fn suspend(&self) -> Result<usize> {
        let (core, entry) = (Arc::clone(&self.process.core), Arc::clone(&self.process.entry));
        aside(move || suspend::suspend(&core, &entry)).await?
    }

    /// Resumes all processes of the program's tree, like [`Process::resume`], even if the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As for [`Process::resume`]; [`is_closed`](Error::is_closed) also if the runtime is shutting
    /// down.
    pub async fn resume(&self) -> Result<usize> {
        let (core, entry) = (Arc::clone(&self.process.core), Arc::clone(&self.process.entry));
        aside(move || suspend::resume(&core, &entry)).await?
    }

    /// Sends SIGKILL to the program itself, like [`Process::kill`], and waits for it.
    ///
    /// # Errors
    ///
    /// As for [`Process::kill`] and [`wait`](Self::wait).
    pub async fn kill(&mut self) -> Result<()> {
        self.start_kill()?;
        self.wait().await.map(drop)
    }

    /// Sends SIGKILL to the program itself, like [`Process::kill`].
    ///
    /// # Errors
    ///
    /// As for [`Process::kill`].
    pub fn start_kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Returns a handle that signals the program while this one waits for it.
    pub fn signaller(&self) -> Signaller {
        self.process.signaller()
    }

    /// Ends the program's tree in the background, unless the program has ended.
    pub(super) fn end_in_background(&self, rule: RuleKey) {
        self.process.on_drop.end_in_background(rule);
    }

    fn core(&self) -> &Arc<Core> {
        &self.process.core
    }

    /// Is ready once all its threads are dead; from then on the pidfd is readable.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.core().instance.is_forked() {
            return Poll::Ready(self.core().instance.check_usable());
        }
        self.pidfd.poll_dead(cx)
    }

    /// Reads the status of the dead program, and waits until its end is recorded, like
    /// `Process::ended`.
    async fn ended(&self) -> Result<Exit> {
        let Process { core, entry, pidfd, .. } = &self.process;
        let mut untraced = None;
        let status = loop {
            // Its keeper may take a moment, and a tracer may still hold the process.
            match entry.learn_status(pidfd, Instant::now()) {
                StatusReading::Status(status) => break status,
                StatusReading::Unreaped if !exit_statuses::is_traced(core, entry) => {
                    if untraced.get_or_insert_with(Instant::now).elapsed() > REAPED_WITHIN {
                        break entry.publish(ExitStatus::Unobserved);
                    }
                }
                StatusReading::NotYet | StatusReading::Unreaped => {}
            }
            tokio::time::sleep(STATUS_PAUSE).await;
        };
        let watched = entry.pidfd.is_some() && core.passes.is_monitoring();
        if !watched && !entry.is_recorded() {
            let (core, dead) = (Arc::clone(core), (Arc::clone(entry), Arc::clone(pidfd)));
            aside(move || settle::settle(&core, &[dead])).await?;
        }
        // A ledger that cannot be written must not delay the waiter any longer.
        let _ = tokio::time::timeout(RECORD_LIMIT, entry.recorded()).await;
        if let Some(exit) = exit_without_reading(entry, status) {
            return Ok(exit);
        }
        let (core, entry) = (Arc::clone(core), Arc::clone(entry));
        aside(move || exit_of(&core, &entry, status)).await
    }
}

impl AsFd for AsyncProcess {
    /// Returns its pidfd, like [`Process::as_fd`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}
