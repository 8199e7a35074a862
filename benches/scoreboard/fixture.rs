//! A folder, a ledger in it, and jobs that print nothing.

use std::{path::PathBuf, time::Duration};

use procledger::{Builder, ContainmentMode, Job, Process, Stdio, Tracker};
use tempfile::TempDir;

/// A ledger in a folder that is removed with it.
pub(crate) struct Fixture {
    pub(crate) tracker: Tracker,
    pub(crate) folder: TempDir,
}

/// The grace of programs that ignore SIGTERM: that of the former implementation.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

impl Fixture {
    /// Without the monitor, so that nothing else runs while a verb is measured; in sessions, the
    /// plainest containment.
    pub(crate) fn quiet() -> Self {
        Self::with(|builder| builder.monitor(false))
    }

    pub(crate) fn with(options: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let builder = Tracker::builder(folder.path().join("ledger.db"))
            .grace(GRACE)
            .containment(ContainmentMode::Session);
        let tracker = options(builder).open().expect("a ledger");
        Self { tracker, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    pub(crate) fn spawn(&self, task: &str, words: &[&str]) -> Process {
        self.tracker.spawn(job(task, words)).expect("it runs")
    }
}

/// A job with the bench's own standard descriptors, as in the limit.
pub(crate) fn job(task: &str, words: &[&str]) -> Job {
    Job::new(task, words[0]).args(words[1..].iter().copied()).stdin(Stdio::inherit())
}
