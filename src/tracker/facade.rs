//! [`Tracker`]: each operation in a few lines. The work is done in the other modules of the
//! tracker.

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    core::Core,
    end::{forget, orphaned, shutdown, terminate},
    handle::{by_task, exit::Exit, output::Output, process::Process},
    inspect::{ledger::Ledger, metrics, subscription::Subscription},
    passes::{
        health, import, orphans,
        retention::{self, PruneProgress, Pruned},
        watch::{self, WatchCycle},
    },
    start::{job::Job, register, spawn},
};
use crate::{
    error::Result,
    model::{EndPlan, Metrics, Report},
};

/// A handle to an open ledger, which starts programs, watches them and ends them.
///
/// Clones share one instance; it is `Send` and `Sync`. Dropping the last clone shuts the instance
/// down, as [`shutdown`](Tracker::shutdown) does.
///
/// A host that exits without dropping its tracker shuts nothing down, as with a SIGTERM or Ctrl-C
/// that it does not handle, with `std::process::exit`, with `panic = "abort"`, or with a tracker in
/// a `static`, which is never dropped. In `session` and `cgroup` containment its programs then run
/// on until the ledger is opened again. Call [`shutdown`](Tracker::shutdown) before the exit; or
/// use a keeper ([`ContainmentMode::Keeper`](crate::ContainmentMode::Keeper)), which ends them when
/// the host ends for any reason; or run `procledger watch` on the ledger, which ends them at once.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// use procledger::{Job, Tracker};
///
/// let tracker = Tracker::builder(path).open()?;
/// let mut process = tracker.spawn(Job::new("task-42", "true"))?;
/// assert!(process.wait()?.success());
/// tracker.shutdown()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tracker {
    inner: Arc<Inner>,
}

/// Shuts down when the last handle is dropped.
#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    startup: Report,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.core.instance.is_forked() {
            // Closing SQLite's files in a forked child could remove the WAL that the parent still
            // writes.
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        if let Err(error) = shutdown::shut_down(&self.core) {
            tracing::error!("failed to shut down: {error}");
        }
    }
}

impl Tracker {
    /// Returns the handle to a tracker once `begin` has completed its opening and returned the
    /// report on dead instances. From here on a failure shuts the instance down.
    pub(super) fn opened(
        core: Arc<Core>,
        begin: impl FnOnce(&Arc<Core>) -> Result<Report>,
    ) -> Result<Self> {
        let mut inner = Inner { core, startup: Report::default() };
        inner.startup = begin(&inner.core)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the components of the tracker, unless it is closed.
    fn usable(&self) -> Result<&Arc<Core>> {
        self.inner.core.instance.check_usable()?;
        Ok(&self.inner.core)
    }

    /// Returns which processes of dead instances `open` found, and what it did about them.
    pub fn startup_report(&self) -> &Report {
        &self.inner.startup
    }

    /// Returns the canonical path of the ledger.
    pub fn path(&self) -> &Path {
        self.inner.core.store.path()
    }

    /// Subscribes to the events that the ledger records from now on: ends, survivors and leaks, of
    /// this and of every other instance. The subscription ends when this tracker has shut down.
    ///
    /// # Errors
    ///
    /// [`is_closed`](crate::Error::is_closed) after a shutdown; if the ledger cannot be read.
    pub fn subscribe(&self) -> Result<Subscription> {
        let core = self.usable()?;
        Subscription::new(core.store.clone(), Some(Arc::clone(core)))
    }

    /// Returns a read-only view of the same ledger.
    pub fn ledger(&self) -> Ledger {
        Ledger::of(&self.inner.core)
    }

    /// Starts a program. When this returns, the program is running or has ended, and its row was
    /// committed before its first instruction.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{Job, Stdio};
    ///
    /// let process = tracker.spawn(Job::new("task-42", "echo").arg("hello").stdout(Stdio::piped()))?;
    /// let output = process.wait_with_output()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - invalid input: an empty or overlong task id, a NUL byte anywhere, an empty program name;
    /// - [`is_already_running`](crate::Error::is_already_running): the task has a live process, or
    ///   a survivor, in this ledger;
    /// - [`is_not_started`](crate::Error::is_not_started): the program is not found, not
    ///   executable, or its directory cannot be entered; the errno is in
    ///   [`raw_os_error`](crate::Error::raw_os_error), and the row says `failed`;
    /// - the row cannot be written: the program has not run, and never will;
    /// - [`is_closed`](crate::Error::is_closed): after shutdown, or in a forked child.
    pub fn spawn(&self, job: Job) -> Result<Process> {
        spawn::spawn(&self.inner.core, job)
    }

    /// Starts a program, waits for it and returns all of its output, like
    /// [`std::process::Command::output`]: standard output and standard error are piped and standard
    /// input is `/dev/null`, unless the job sets something else.
    ///
    /// To limit the time, set [`Job::max_runtime`]; to limit the number of bytes, see
    /// [`Process::communicate`].
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{Job, Stdio};
    ///
    /// let job = Job::new("task-42", "sh").args(["-c", "echo out; echo err >&2"]).stderr(Stdio::merge());
    /// let output = tracker.output(job)?;
    /// assert_eq!(output.stdout, b"out\nerr\n");
    /// assert!(output.exit.success());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Tracker::spawn) and [`Process::wait_with_output`].
    pub fn output(&self, job: Job) -> Result<Output> {
        self.spawn(job.with_output())?.wait_with_output()
    }

    /// Starts a program, with inherited standard descriptors unless the job sets others, and waits
    /// for it, like [`std::process::Command::status`].
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Tracker::spawn) and [`Process::wait`].
    pub fn status(&self, job: Job) -> Result<Exit> {
        self.spawn(job)?.wait()
    }

    /// Tracks a process that the caller started by other means. It is ended with this tracker, like
    /// a spawned process. Only the process itself and its descendants belong to its tree, since its
    /// session and its cgroup belong to its starter.
    ///
    /// The handle can wait for it, signal it and end it, like the handle of a spawned program. The
    /// status of a process that is not a child of the host can be observed only from Linux 6.15 on;
    /// the status of a child is left to its starter.
    ///
    /// Between its start and this call the process is not tracked: prefer
    /// [`spawn`](Tracker::spawn), which has no such gap.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// # #[allow(clippy::disallowed_methods)]
    /// let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    /// tracker.register("task-43", child.id())?;
    /// tracker.terminate("task-43")?;
    /// # child.wait().unwrap();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - invalid input: an invalid task id; a pid that is 0, 1 or negative; the pid of this process
    ///   or of an ancestor; a kernel thread;
    /// - [`is_gone`](crate::Error::is_gone): no such process, or it is dead already;
    /// - [`is_denied`](crate::Error::is_denied): it belongs to a uid other than the ledger's;
    /// - [`is_already_running`](crate::Error::is_already_running): the task has a live process;
    /// - [`is_closed`](crate::Error::is_closed): after shutdown.
    pub fn register(&self, task_id: impl Into<String>, pid: impl Into<i64>) -> Result<Process> {
        register::register(&self.inner.core, task_id.into(), pid.into())
    }

    /// Returns another handle to a task that this instance runs; `None` if it runs no such task, or
    /// if the task has ended and its end is recorded. If a task has several roots, the handle
    /// refers to the one that was started last.
    ///
    /// The handle has no pipes, and dropping it ends nothing, whatever the job says. Several
    /// threads can wait for one program, each with its own handle.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{EndReason, Job};
    ///
    /// let mut process = tracker.spawn(Job::new("task-42", "sleep").arg("3600"))?;
    /// let waiter = tracker.get("task-42")?.expect("it runs");
    /// let waiter = std::thread::spawn(move || { let mut waiter = waiter; waiter.wait() });
    /// tracker.kill(&["task-42"], "the operator")?;
    /// let exit = waiter.join().unwrap()?;
    /// assert_eq!(exit.reason, EndReason::Killed);
    /// assert_eq!(exit.requested_by.as_deref(), Some("the operator"));
    /// assert_eq!(process.wait()?, exit);
    /// // This also works after it has ended.
    /// assert_eq!(tracker.wait("task-42")?.reason, EndReason::Killed);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Invalid input for an invalid task id; if there is no descriptor left for another pidfd.
    pub fn get(&self, task_id: &str) -> Result<Option<Process>> {
        by_task::get(self.usable()?, task_id)
    }

    /// Waits until a task that this instance runs has ended, like [`Process::wait`]. If the task
    /// has ended already, returns how it last ended.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](crate::Error::is_not_found) if this instance has never run the task, or its
    /// row was pruned; otherwise as for [`Process::wait`].
    pub fn wait(&self, task_id: &str) -> Result<Exit> {
        by_task::wait(self.usable()?, task_id)
    }

    /// Stops tracking a task: its process continues to run, and no instance is responsible for it
    /// any more. Returns `false` if the task is not tracked.
    ///
    /// # Errors
    ///
    /// Invalid input for an invalid task id; if the ledger cannot be written.
    pub fn unregister(&self, task_id: &str) -> Result<bool> {
        register::unregister(self.usable()?, task_id)
    }

    /// Ends the whole tree of a task of this instance: sends SIGTERM or the job's [stop
    /// signals](Job::stop_signals), waits for the grace, sends SIGKILL, and verifies that each
    /// process is dead.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](crate::Error::is_not_found) if this instance runs no such task. Processes
    /// that could not be ended are listed in the report ([`Report::survived`]), and are not an
    /// error.
    pub fn terminate(&self, task_id: &str) -> Result<Report> {
        self.terminate_with(task_id, &EndPlan::new())
    }

    /// Ends the whole tree of a task of this instance, like [`terminate`](Self::terminate), but the
    /// settings of `plan` replace the job's: another grace, other signals, the root first or not. A
    /// tree that is already being ended is not affected by `plan`.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::time::Duration;
    /// use procledger::{EndPlan, Job};
    ///
    /// tracker.spawn(Job::new("task-42", "sleep").arg("300"))?;
    /// let seconds = Duration::from_secs;
    /// let plan = EndPlan::new().stop_signals([(2, seconds(10)), (15, seconds(5))]).root_first(true);
    /// let report = tracker.terminate_with("task-42", &plan)?;
    /// assert_eq!(report.survived(), 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Self::terminate); invalid input, as for [`kill_with`](Self::kill_with).
    pub fn terminate_with(&self, task_id: &str, plan: &EndPlan) -> Result<Report> {
        terminate::terminate(self.usable()?, task_id, plan)
    }

    /// Ends tasks of *any* instance because a person requested it; `asked_by` is recorded in the
    /// history.
    ///
    /// If another instance is already ending a task and waits for its grace period, the claim is
    /// taken over and the tree gets SIGKILL at once. The claim of an instance that died while it
    /// was ending the task is taken over with the whole grace period.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](crate::Error::is_not_found), before anything is signalled, if the ledger
    /// has no live process for one of the tasks.
    pub fn kill(&self, task_ids: &[&str], asked_by: &str) -> Result<Report> {
        self.kill_with(task_ids, asked_by, &EndPlan::new())
    }

    /// Does the same, but the settings of `plan` replace the tasks' own: another grace, other
    /// signals, the root first or not.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill); invalid input for a plan that does not pass [`EndPlan::check`].
    pub fn kill_with(&self, task_ids: &[&str], asked_by: &str, plan: &EndPlan) -> Result<Report> {
        terminate::kill(self.usable()?, task_ids, asked_by, plan)
    }

    /// Ends a task of any instance like [`kill`](Self::kill), but leaves its processes that a live
    /// instance, this one included, is already ending: if that is true of all of them, this does
    /// nothing, and returns an empty report. It lets several programs restart a task without
    /// cutting its grace period short.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    pub fn kill_unless_ending(&self, task_id: &str, asked_by: &str) -> Result<Report> {
        terminate::kill_unless_ending(self.usable()?, task_id, asked_by)
    }

    /// Ends every live task of the ledger because a person requested it.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read or written.
    pub fn kill_all(&self, asked_by: &str) -> Result<Report> {
        self.kill_all_with(asked_by, &EndPlan::new())
    }

    /// Does the same, but the settings of `plan` replace the tasks' own: another grace, other
    /// signals, the root first or not.
    ///
    /// # Errors
    ///
    /// As for [`kill_all`](Self::kill_all); invalid input for a plan that does not pass
    /// [`EndPlan::check`].
    pub fn kill_all_with(&self, asked_by: &str, plan: &EndPlan) -> Result<Report> {
        terminate::kill_all(self.usable()?, asked_by, plan)
    }

    /// Interrupts every [`kill`](Self::kill) of this tracker that is waiting in a grace period, now
    /// or later: it releases its claims and returns, and processes that have not ended by then
    /// continue to run. A tree whose grace period is over is ended regardless.
    ///
    /// This is meant for a command that is stopped by a signal. Without it, the rows would stay
    /// `ending` until the next instance that acts takes over the claims of the dead command.
    pub fn interrupt_kills(&self) {
        self.inner.core.kills_interrupted.store(true, Ordering::Release);
    }

    /// Returns the rule by which a running task is an orphan, if it is one because the
    /// [caller](crate::Builder::caller) of its host has ended.
    ///
    /// # Errors
    ///
    /// Invalid input for an invalid task id; if the ledger cannot be read.
    pub fn orphaned(&self, task_id: &str) -> Result<Option<String>> {
        Ok(orphaned::orphaned(&self.inner.core, task_id)?.map(|rule| rule.to_string()))
    }

    /// Ends the whole tree of a task whose [caller](crate::Builder::caller) has ended, like
    /// [`terminate`](Self::terminate), and records its processes as orphans.
    ///
    /// A task of another instance is taken over, even if that instance has begun to end it: call
    /// this only if that instance does not end the task by itself, for example because it is
    /// stopped.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](crate::Error::is_not_found) if there is no such task, or the caller of its
    /// host has not ended.
    pub fn end_orphaned(&self, task_id: &str) -> Result<Report> {
        orphaned::end_orphaned(self.usable()?, task_id)
    }

    /// Closes the rows of a task whose processes cannot be checked from here, or are gone; returns
    /// the number of rows.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](crate::Error::is_not_found) if the task has no live row;
    /// [`is_busy`](crate::Error::is_busy) if its process, or a process that it left, is known to be
    /// alive: closing the row would leak it.
    pub fn forget(&self, task_id: &str, asked_by: &str) -> Result<u64> {
        forget::forget(self.usable()?, task_id, asked_by)
    }

    /// Checks every recorded process, and ends the rows of those that are gone.
    ///
    /// For this instance's own processes it also records the descendants of each root, with memory
    /// and CPU time, ends trees that have exceeded a limit, and tries again to end survivors.
    ///
    /// Rows of other instances are ended only if those instances are dead, since a live owner knows
    /// the exit codes.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read. Errors of a single process are in the report.
    pub fn health_pass(&self) -> Result<Report> {
        health::health_pass(self.usable()?)
    }

    /// Ends the processes that dead instances left, and the processes that match the configured
    /// names; returns when each is gone or has survived.
    ///
    /// [`open`](crate::Builder::open) does this by itself.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read, or rows cannot be claimed. Errors of a single process are in
    /// the report.
    pub fn reap_orphans(&self) -> Result<Report> {
        orphans::reap_orphans(self.usable()?)
    }

    /// Reads a JSON file of the former implementation once, and ends the processes it left. `open`
    /// does this with the export's path.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or moved aside. A file of another user, or a malformed one, is
    /// mentioned in the report.
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Report> {
        import::import(self.usable()?, path.as_ref())
    }

    /// Deletes history that ended longer ago than `older_than`, and frees the space. `progress` is
    /// called after each small step; between steps other writers can write. Live rows, survivors,
    /// the last pass of each kind and the last row of each table are kept, so that no row gets the
    /// number of a deleted one.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::time::Duration;
    ///
    /// let pruned = tracker.prune(Duration::from_hours(24 * 30), |_| {})?;
    /// println!("{} rows, {} bytes", pruned.rows, pruned.bytes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the ledger cannot be written; rows that were deleted before the error stay deleted.
    pub fn prune(
        &self,
        older_than: Duration,
        mut progress: impl FnMut(PruneProgress),
    ) -> Result<Pruned> {
        retention::prune(self.usable()?, older_than, &mut progress)
    }

    /// Watches the ledger, and ends the processes of other instances as soon as those die, until
    /// `stop` becomes readable or its other end is closed. `on_report` gets the report of every
    /// pass that found something.
    ///
    /// New instances are noticed by inotify(7). If no inotify instance or watch is available, the
    /// ledger's folder is listed each second, which is logged once.
    ///
    /// # Errors
    ///
    /// As for [`watch_cycles`](Self::watch_cycles).
    pub fn watch(&self, stop: OwnedFd, mut on_report: impl FnMut(&Report)) -> Result<()> {
        self.watch_cycles(stop, watch::CHECK_AGAIN, |cycle| {
            if let Some(report) = cycle.report {
                on_report(report);
            }
        })
    }

    /// Watches like [`watch`](Self::watch), and calls `on_cycle` before each pass and after each
    /// cycle, at least every `interval` or every 5 s, whichever is less. A program that must report
    /// that the watch is alive does so in `on_cycle`.
    ///
    /// # Errors
    ///
    /// Errors of a single pass are logged, and the watch goes on.
    /// [`is_not_found`](crate::Error::is_not_found) once the ledger was removed, or another file is
    /// in its place: instances that open the new file would not be watched.
    pub fn watch_cycles(
        &self,
        stop: OwnedFd,
        interval: Duration,
        on_cycle: impl FnMut(&WatchCycle<'_>),
    ) -> Result<()> {
        watch::watch_cycles(self.usable()?, stop, interval, on_cycle)
    }

    /// Watches like [`watch_cycles`](Self::watch_cycles), but without an inotify instance of its
    /// own: for a program that watches the folders of many ledgers with a single inotify instance.
    ///
    /// `names` is a pipe with the names of files that were created or removed in the ledger's
    /// folder, each terminated by a NUL byte. An empty name means that names may be missing, and
    /// causes the folder to be listed. The pipe is set non-blocking. Once its other end is closed,
    /// the folder is watched as in [`watch_cycles`](Self::watch_cycles).
    ///
    /// # Errors
    ///
    /// As for [`watch_cycles`](Self::watch_cycles), and if `names` cannot be set non-blocking.
    pub fn watch_named(
        &self,
        names: OwnedFd,
        stop: OwnedFd,
        interval: Duration,
        on_cycle: impl FnMut(&WatchCycle<'_>),
    ) -> Result<()> {
        watch::watch_named(self.usable()?, names, stop, interval, on_cycle)
    }

    /// Returns the counts of this tracker since it was opened.
    ///
    /// All values except the survivors are read from memory; the survivors are counted by one query
    /// over the live rows of the ledger.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// use procledger::{Job, Tracker};
    ///
    /// let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// tracker.spawn(Job::new("task-42", "true"))?.wait()?;
    /// let metrics = tracker.metrics();
    /// assert_eq!(metrics.spawns, 1);
    /// assert_eq!(metrics.survivors, Some(0));
    /// # Ok(()) }
    /// ```
    pub fn metrics(&self) -> Metrics {
        metrics::of_tracker(&self.inner.core)
    }

    /// Returns the number of roots that this instance is responsible for now, like
    /// `executing_count` of the former implementation.
    pub fn executing_count(&self) -> usize {
        self.inner.core.registry.len()
    }

    /// Returns how many of this instance's processes are not watched by the monitor because half of
    /// the descriptor limit is used up. The health pass detects their ends.
    pub fn unwatched(&self) -> usize {
        self.inner.core.registry.unwatched()
    }

    /// Returns whether the monitor thread runs.
    pub fn is_monitoring(&self) -> bool {
        self.inner.core.passes.is_monitoring()
    }

    /// Returns whether the first orphan pass has run, so that spawning is allowed.
    pub fn is_clean(&self) -> bool {
        self.inner.core.instance.is_clean()
    }

    /// Waits until all changes so far are written to the export, at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`is_closed`](crate::Error::is_closed) after a shutdown, or in a forked child;
    /// [`is_busy`](crate::Error::is_busy) if the time is up, or another instance writes the export;
    /// [`is_not_found`](crate::Error::is_not_found) if there is no export.
    pub fn flush_export(&self, timeout: Duration) -> Result<()> {
        self.inner.core.export.flush(timeout)
    }

    /// Returns why the export cannot be written; `None` while there is no error, or there is no
    /// export.
    pub fn export_error(&self) -> Option<String> {
        self.inner.core.export.last_error()
    }

    /// Ends this instance's processes, except those marked `survive`, removes the export, and
    /// records a clean stop.
    ///
    /// Closes all clones of this handle; a second call does nothing. Dropping the last clone does
    /// the same, but cannot report errors.
    ///
    /// # Errors
    ///
    /// If the stop cannot be recorded. Processes that could not be ended are listed in the report,
    /// and stay in the ledger as survivors.
    pub fn shutdown(&self) -> Result<Report> {
        shutdown::shut_down(&self.inner.core)
    }
}
