//! A set of programs that ends what it holds when it is dropped.

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
#[derive(Debug)]
pub struct ProcessSet {
    // Each task owns its handle, which ends its program when the task is aborted.
    waits: JoinSet<(TaskId, Result<Exit>)>,
    /// Whether the waits are to end their programs.
    stop: watch::Sender<bool>,
    /// Whether its programs end with their handles. Read when a handle is dropped, wherever that happens: an order to the tasks
    /// would be lost where their runtime ends first.
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
        let mut process = process.put_in_set(Arc::clone(&self.attached));
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
        // Programs that are added after a future that was dropped are not ended by it.
        std::mem::take(&mut self.stop).send_replace(true);
        let mut ended = Vec::with_capacity(self.len());
        while let Some(one) = self.join_next().await {
            ended.push(one);
        }
        ended
    }

    /// Removes all programs from the set without ending them, as [`tokio::task::JoinSet::detach_all`]; it can be used further.
    ///
    /// They run on as programs whose handles were dropped, also when the set is dropped or the runtime ends right after this: the
    /// tracker ends them at its shutdown, and [`AsyncTracker::get`] returns handles on them. A
    /// [`terminate_on_drop`](crate::Job::terminate_on_drop) of their jobs applies no more. What a [`shutdown`](Self::shutdown)
    /// whose future was dropped has begun to end is ended.
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

/// Waits for a program; ends its tree first once `stop` says so.
async fn wait(process: &mut AsyncProcess, mut stop: watch::Receiver<bool>) -> Result<Exit> {
    {
        let mut ended = pin!(process.wait());
        let mut stopped = pin!(async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                // The set is gone, or has detached its programs: this task is aborted, and drops its handle.
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
    process.end_aside(RuleKey::OwnerAsked);
    process.wait().await
}
