//! A set of programs that ends its programs when it is dropped.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use tokio::{sync::watch, task::JoinSet};

use super::{AsyncProcess, AsyncTracker};
use crate::{
    error::Result,
    model::{RuleKey, TaskId},
    tracker::{Job, handle::exit::Exit},
};

/// A set of programs that are waited for together, like the tasks of a [`tokio::task::JoinSet`].
/// Dropping it ends their trees in the background.
///
/// ```
/// use procledger::{Job, ProcessSet, Tracker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?.into_async();
/// let mut set = ProcessSet::new();
/// for code in ["1", "2"] {
///     set.spawn(&tracker, Job::new(format!("task-{code}"), "sh").args(["-c", "exit $0", code])).await?;
/// }
/// let mut codes = Vec::new();
/// while let Some((task, exit)) = set.join_next().await {
///     println!("{task}: {}", exit.as_ref().unwrap());
///     codes.extend(exit?.code());
/// }
/// codes.sort();
/// assert_eq!(codes, [1, 2]);
/// # tracker.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ProcessSet {
    // Each task owns its handle, which ends its program when the task is aborted.
    waits: JoinSet<(TaskId, Result<Exit>)>,
    /// Whether the waits are to end their programs.
    stop: watch::Sender<bool>,
    /// Whether its programs end with their handles. This is read when a handle is dropped, wherever
    /// that happens; a request to the tasks would be lost if their runtime ended first.
    attached: Arc<AtomicBool>,
}

impl Default for ProcessSet {
    fn default() -> Self {
        let attached = Arc::new(AtomicBool::new(true));
        Self { waits: JoinSet::new(), stop: watch::Sender::default(), attached }
    }
}

impl ProcessSet {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a program and adds it to the set. If the future is dropped, the program is ended.
    ///
    /// Pipes of the job are closed: to read a program's output, spawn it, take the pipes, and
    /// [`add`](Self::add) it.
    ///
    /// # Errors
    ///
    /// As for [`AsyncTracker::spawn`].
    ///
    /// # Panics
    ///
    /// As for [`AsyncTracker::spawn`].
    pub async fn spawn(&mut self, tracker: &AsyncTracker, job: Job) -> Result<()> {
        let process = tracker.spawn(job.terminate_on_drop(true)).await?;
        self.add(process);
        Ok(())
    }

    /// Adds a running program. From now on it ends with the set.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn add(&mut self, process: AsyncProcess) {
        let mut process = process.put_in_set(Arc::clone(&self.attached));
        let stop = self.stop.subscribe();
        self.waits.spawn(async move {
            let exit = wait(&mut process, stop).await;
            (process.task_id().clone(), exit)
        });
    }

    /// Returns the number of programs in the set: those that are running, and those that have ended
    /// but were not returned yet.
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    /// Returns whether the set has no program.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Waits until one of the programs has ended and its end is in the ledger, removes it, and
    /// returns its task and how it ended; `None` if the set is empty. Cancel safe.
    ///
    /// # Panics
    ///
    /// If a wait has panicked, which is a bug in this crate.
    pub async fn join_next(&mut self) -> Option<(TaskId, Result<Exit>)> {
        loop {
            match self.waits.join_next().await? {
                Ok(ended) => return Some(ended),
                // Otherwise it was aborted by the end of its runtime.
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }

    /// Ends the trees of all programs together, each with its own grace, and returns the programs
    /// like [`join_next`](Self::join_next); the set is empty afterwards. If the future is dropped,
    /// the trees are ended nevertheless.
    ///
    /// # Panics
    ///
    /// As for [`join_next`](Self::join_next).
    pub async fn shutdown(&mut self) -> Vec<(TaskId, Result<Exit>)> {
        // Programs that are added after a future that was dropped are not ended by it.
        std::mem::take(&mut self.stop).send_replace(true);
        let mut ended = Vec::with_capacity(self.len());
        while let Some(one) = self.join_next().await {
            ended.push(one);
        }
        ended
    }

    /// Removes all programs from the set without ending them, like
    /// [`tokio::task::JoinSet::detach_all`]. The set can still be used.
    ///
    /// They continue to run like programs whose handles were dropped, even if the set is dropped or
    /// the runtime ends right after this: the tracker ends them at its shutdown, and
    /// [`AsyncTracker::get`] returns handles to them. A
    /// [`terminate_on_drop`](crate::Job::terminate_on_drop) of their jobs no longer applies. Trees
    /// that a [`shutdown`](Self::shutdown) whose future was dropped has begun to end are ended.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?.into_async();
    /// use procledger::{Job, ProcessSet};
    ///
    /// let mut set = ProcessSet::new();
    /// set.spawn(&tracker, Job::new("task-42", "sleep").arg("300")).await?;
    /// set.detach_all();
    /// drop(set);
    /// let mut process = tracker.get("task-42")?.expect("it runs");
    /// process.terminate().await?;
    /// # tracker.shutdown().await?;
    /// # Ok(()) }
    /// ```
    pub fn detach_all(&mut self) {
        self.attached.store(false, Ordering::Release);
        *self = Self::default();
    }
}

/// Waits for a program; ends its tree once `stop` is true.
async fn wait(process: &mut AsyncProcess, mut stop: watch::Receiver<bool>) -> Result<Exit> {
    {
        let mut ended = pin!(process.wait());
        let mut stopped = pin!(async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                // The set is gone, or has detached its programs: this task is aborted, and drops
                // its handle.
                pending::<()>().await;
            }
        });
        let first = poll_fn(|cx| match ended.as_mut().poll(cx) {
            Poll::Ready(exit) => Poll::Ready(Some(exit)),
            Poll::Pending => stopped.as_mut().poll(cx).map(|()| None),
        });
        if let Some(exit) = first.await {
            return exit;
        }
    }
    process.end_in_background(RuleKey::OwnerAsked);
    process.wait().await
}
