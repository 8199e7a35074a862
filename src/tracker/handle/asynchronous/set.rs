//! A set of programs that ends what it holds when it is dropped.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::{sync::watch, task::JoinSet};

use super::{AsyncProcess, AsyncTracker};
use crate::{
    error::Result,
    model::{RuleKey, TaskId},
    tracker::{Job, handle::exit::Exit},
};

/// Programs that are waited for together, as tasks are by [`tokio::task::JoinSet`]. Dropping it ends their trees, in the
/// background.
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
#[derive(Debug, Default)]
pub struct ProcessSet {
    // Each task owns its handle, which ends its program when the task is aborted.
    waits: JoinSet<(TaskId, Result<Exit>)>,
    /// Whether the waits are to end their programs.
    stop: watch::Sender<bool>,
}

impl ProcessSet {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a program and adds it. If the future is dropped, the program is ended.
    ///
    /// Pipes that the job asks for are closed: to read a program's output, spawn it, take the pipes, and [`add`](Self::add) it.
    ///
    /// # Errors
    ///
    /// As [`AsyncTracker::spawn`].
    ///
    /// # Panics
    ///
    /// As [`AsyncTracker::spawn`].
    pub async fn spawn(&mut self, tracker: &AsyncTracker, job: Job) -> Result<()> {
        let process = tracker.spawn(job.terminate_on_drop(true)).await?;
        self.add(process);
        Ok(())
    }

    /// Adds a program that runs already. From now on it ends with the set.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn add(&mut self, process: AsyncProcess) {
        let mut process = process.terminate_on_drop(true);
        let stop = self.stop.subscribe();
        self.waits.spawn(async move {
            let exit = wait(&mut process, stop).await;
            (process.task_id().clone(), exit)
        });
    }

    /// Returns the number of programs in the set: those that run, and those that have ended and were not returned yet.
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    /// Returns whether the set has no program.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Waits until one of the programs has ended and its end is in the ledger, removes it, and returns its task and how it ended;
    /// `None` where the set is empty. Cancel safe.
    ///
    /// # Panics
    ///
    /// When a wait has panicked, which is a bug of this crate.
    pub async fn join_next(&mut self) -> Option<(TaskId, Result<Exit>)> {
        loop {
            match self.waits.join_next().await? {
                Ok(ended) => return Some(ended),
                // Otherwise it was aborted, by the end of its runtime.
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }

    /// Ends the trees of all programs, all of them together and each with its own grace, and returns the programs as
    /// [`join_next`](Self::join_next) does; the set is empty afterwards. If the future is dropped, the trees are ended
    /// nevertheless.
    ///
    /// # Panics
    ///
    /// As [`join_next`](Self::join_next).
    pub async fn shutdown(&mut self) -> Vec<(TaskId, Result<Exit>)> {
        self.stop.send_replace(true);
        let mut ended = Vec::with_capacity(self.len());
        while let Some(one) = self.join_next().await {
            ended.push(one);
        }
        self.stop.send_replace(false);
        ended
    }
}

/// Waits for a program; ends its tree first once `stop` says so.
async fn wait(process: &mut AsyncProcess, mut stop: watch::Receiver<bool>) -> Result<Exit> {
    {
        let mut ended = pin!(process.wait());
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let first = poll_fn(|cx| match ended.as_mut().poll(cx) {
            Poll::Ready(exit) => Poll::Ready(Some(exit)),
            // It fails where the set is gone, which aborts this task as well.
            Poll::Pending => stopped.as_mut().poll(cx).map(|_| None),
        });
        if let Some(exit) = first.await {
            return exit;
        }
    }
    process.end_aside(RuleKey::OwnerAsked);
    process.wait().await
}
