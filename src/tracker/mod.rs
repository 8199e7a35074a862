//! The tracker: the operations of an open ledger.
//!
//! - [`core`]: what all rooms below share;
//! - [`options`]: the options of a tracker;
//! - [`builder`]: the options, and the order of opening;
//! - [`caller`]: the process on whose behalf a host runs its tasks;
//! - [`start`]: how a process comes under the tracker;
//! - [`handle`]: waiting for a process and reading its output;
//! - [`runtime`]: what an open tracker keeps in memory, and the monitor's thread;
//! - [`membership`]: which processes belong to a tree;
//! - [`end`]: ending trees, and what follows when a root exits;
//! - [`passes`]: health, orphans, retention, and reaping for other instances;
//! - [`inspect`]: reading without changing anything;
//! - [`keeper`]: the `main` of a keeper.

mod builder;
mod caller;
mod core;
mod end;
mod handle;
mod inspect;
mod keeper;
mod membership;
mod options;
mod passes;
mod runtime;
mod start;

use std::sync::Arc;

pub use builder::{Builder, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT, ECOSYSTEM_MANAGER_NAME};
pub use caller::Caller;
pub use end::kill_options::KillOptions;
#[cfg(feature = "tokio")]
pub use handle::asynchronous::{AsyncProcess, AsyncTracker};
pub use handle::output::Output;
pub use handle::process::{Process, Signaller};
pub use inspect::ledger::Ledger;
pub use inspect::{
    doctor::{diagnose, diagnose_trusting},
    finding::{Finding, Level},
};
pub use keeper::main as keeper_main;
pub use passes::retention::{DEFAULT_KEEP_HISTORY, PruneProgress, Pruned};
pub use passes::watch::Turn;
pub use start::job::{Job, Stdio};

use crate::model::Report;

pub(crate) use crate::sys::keeper::is_asked as keeper_is_asked;

/// A handle on an open ledger: starts programs, watches them, ends them.
///
/// Clones share one instance; it is `Send` and `Sync`. Dropping the last clone shuts the instance down, as
/// [`end::shutdown`](Tracker::shutdown) does.
///
/// A host that exits without dropping it shuts nothing down: `std::process::exit`, `panic = "abort"`, or a tracker in a
/// `static`, which is never dropped. Then its programs live on in `session` and `cgroup` containment until the ledger is opened
/// again. Call [`end::shutdown`](Tracker::shutdown) before the exit; or use a keeper
/// ([`ContainmentMode::Keeper`](crate::ContainmentMode::Keeper)), which ends them with the host whatever the cause of its end,
/// or run `procledger watch` on the ledger, which ends them at once.
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
    core: Arc<core::Core>,
    startup: Report,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.core.instance.is_forked() {
            // Closing SQLite's files in a forked child could remove the WAL that the parent still writes.
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        if let Err(error) = end::shutdown::shut_down(&self.core) {
            tracing::error!("failed to shut down: {error}");
        }
    }
}
