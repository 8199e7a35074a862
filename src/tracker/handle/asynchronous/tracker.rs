//! The tracker's blocking operations, as futures.

use std::sync::Arc;

use super::{AsyncProcess, aside};
use crate::{
    error::Result,
    model::{EndPlan, Report},
    tracker::{
        Job, Tracker,
        end::settle,
        handle::{exit::Exit, output::Output, process::Process},
    },
};

/// A [`Tracker`] for use in a tokio runtime: blocking operations run on the runtime's blocking
/// pool.
///
/// Dropping one of these futures does not undo an operation that has begun: a program that is being
/// started will run and be in the ledger; a tree that is being ended will be ended and recorded.
///
/// Close it with [`shutdown`](Self::shutdown). Dropping the last handle shuts down as well, but
/// blocks the thread meanwhile.
///
/// ```
/// use procledger::{Job, Stdio, Tracker};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// let tracker = Tracker::builder(path).open()?.into_async();
/// let job = Job::new("task-42", "echo").arg("hello").stdout(Stdio::piped());
/// let output = tracker.spawn(job).await?.wait_with_output().await?;
/// assert_eq!(output.stdout, b"hello\n");
/// tracker.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AsyncTracker(Tracker);

impl Tracker {
    /// Converts the tracker for use in a tokio runtime.
    pub fn into_async(self) -> AsyncTracker {
        AsyncTracker(self)
    }
}

impl AsyncTracker {
    /// Returns the tracker itself. Its methods block: those that only read, for about a
    /// millisecond; those that end processes, for a grace.
    pub fn tracker(&self) -> &Tracker {
        &self.0
    }

    /// Starts a program, like [`Tracker::spawn`]. If the future is dropped, as by
    /// `tokio::time::timeout` or `select!`, the program may still run, without a handle: it has its
    /// row, and the tracker ends it at shutdown. With
    /// [`Job::terminate_on_drop`](crate::Job::terminate_on_drop) its tree is ended instead.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::spawn`]; [`is_closed`](crate::Error::is_closed) if the runtime is shutting
    /// down.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, like all of these methods, and in a runtime that was built without
    /// `enable_all`.
    pub async fn spawn(&self, job: Job) -> Result<AsyncProcess> {
        let process = self.run(move |tracker| tracker.spawn(job)).await?;
        let (core, entry) = (Arc::clone(&process.core), Arc::clone(&process.entry));
        match process.into_async() {
            Ok(process) => Ok(process),
            Err(error) => {
                // The caller gets no handle to it, and an operation that failed leaves no process
                // behind.
                let plan = EndPlan::new();
                aside(move || {
                    settle::terminate_entries(&core, std::slice::from_ref(&entry), &plan)
                })
                .await??;
                Err(error)
            }
        }
    }

    /// Starts a program, waits for it and returns all of its output, like [`Tracker::output`]. If
    /// the future is dropped, the program's tree is ended, since there is no other handle to it.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn) and [`AsyncProcess::wait_with_output`].
    ///
    /// # Panics
    ///
    /// As for [`spawn`](Self::spawn).
    pub async fn output(&self, job: Job) -> Result<Output> {
        let job = job.with_output().terminate_on_drop(true);
        self.spawn(job).await?.wait_with_output().await
    }

    /// Starts a program and waits for it, like [`Tracker::status`]. If the future is dropped, the
    /// program's tree is ended.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn) and [`AsyncProcess::wait`].
    ///
    /// # Panics
    ///
    /// As for [`spawn`](Self::spawn).
    pub async fn status(&self, job: Job) -> Result<Exit> {
        self.spawn(job.terminate_on_drop(true)).await?.wait().await
    }

    /// Returns another handle to a task of this instance, like [`Tracker::get`].
    ///
    /// # Errors
    ///
    /// As for [`Tracker::get`] and [`Process::into_async`](crate::Process::into_async).
    ///
    /// # Panics
    ///
    /// As for [`spawn`](Self::spawn).
    pub fn get(&self, task_id: &str) -> Result<Option<AsyncProcess>> {
        self.0.get(task_id)?.map(Process::into_async).transpose()
    }

    /// Waits for a task of this instance, like [`Tracker::wait`]. Cancel safe.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::wait`].
    pub async fn wait(&self, task_id: &str) -> Result<Exit> {
        if let Some(mut process) = self.get(task_id)? {
            return process.wait().await;
        }
        let task_id = task_id.to_owned();
        self.run(move |tracker| tracker.wait(&task_id)).await
    }

    /// Ends a task, like [`Tracker::terminate`]. Its trees are ended even if the future is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::terminate`]; [`is_closed`](crate::Error::is_closed) if the runtime is
    /// shutting down.
    pub async fn terminate(&self, task_id: impl Into<String>) -> Result<Report> {
        self.terminate_with(task_id, &EndPlan::new()).await
    }

    /// Ends a task according to `plan`, like [`Tracker::terminate_with`]. Its trees are ended even
    /// if the future is dropped.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::terminate_with`]; [`is_closed`](crate::Error::is_closed) if the runtime is
    /// shutting down.
    pub async fn terminate_with(
        &self,
        task_id: impl Into<String>,
        plan: &EndPlan,
    ) -> Result<Report> {
        let (task_id, plan) = (task_id.into(), plan.clone());
        self.run(move |tracker| tracker.terminate_with(&task_id, &plan)).await
    }

    /// Shuts down, like [`Tracker::shutdown`]. The shutdown is completed even if the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As for [`Tracker::shutdown`]; [`is_closed`](crate::Error::is_closed) if the runtime is
    /// shutting down.
    pub async fn shutdown(&self) -> Result<Report> {
        self.run(Tracker::shutdown).await
    }

    /// Runs any other operation on the blocking pool.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// # let tracker = procledger::Tracker::builder(path).open()?.into_async();
    /// let report = tracker.run(|tracker| tracker.health_pass()).await?;
    /// # tracker.shutdown().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the operation; [`is_closed`](crate::Error::is_closed) if the runtime is shutting
    /// down.
    pub async fn run<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Tracker) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tracker = self.0.clone();
        aside(move || verb(&tracker)).await?
    }
}
