//! The tracker: one verb a file.
//!
//! - [`open`]: the builder, and what opening does in which order;
//! - [`spawn`] and [`register`]: how processes come under the tracker;
//! - [`containment`]: what keeps a tree together;
//! - [`process`], [`output`] and [`foreground`]: waiting for one;
//! - `asynchronous`: the same as futures, with the feature `tokio`;
//! - [`settle`]: a root ended by itself;
//! - [`statuses`]: of dead processes whose status cannot be had yet; [`claims`]: of other instances on rows that end here;
//! - [`adopted`]: zombies that tasks leave to this process;
//! - [`terminate`] and [`ending`]: ending trees; [`tie`]: what belongs to one, and pinning it;
//! - [`background`]: ends that no caller waits for;
//! - [`keep`]: what is left alone on purpose;
//! - [`reap`] with [`liveness`], [`sweep`] and [`import`]: what dead instances left;
//! - [`health`] with [`below`], and [`monitor`]: are the recorded processes still there?
//! - [`memory`]: limits on the memory of trees;
//! - [`forks`]: the kernel's help with what is below a root that only its session holds;
//! - [`late`] and [`late_ends`]: what could not be written when it happened;
//! - [`retention`]: history that is old enough, and the size of the ledger;
//! - [`watch`]: reaping for other instances;
//! - [`shutdown`]: the orderly end;
//! - [`keeper`]: programs under a keeper, and the keeper;
//! - [`ledger`], [`trees`] and [`doctor`] with [`wal`]: looking without touching, and [`metrics`] for figures.

mod adopted;
mod alone;
#[cfg(feature = "tokio")]
mod asynchronous;
mod background;
mod below;
mod claims;
mod containment;
mod doctor;
mod ending;
mod entry;
mod foreground;
mod forget;
mod forks;
mod health;
mod import;
mod job;
mod keep;
mod keeper;
mod late;
mod late_ends;
mod ledger;
mod liveness;
mod memory;
mod metrics;
mod monitor;
mod open;
mod outcome;
mod output;
mod process;
mod reap;
mod register;
mod registrar;
mod retention;
mod settle;
mod shared;
mod shutdown;
mod spawn;
mod statuses;
mod sweep;
mod terminate;
mod tie;
mod trees;
mod wal;
mod watch;
mod watch_folder;

use std::sync::Arc;

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncProcess, AsyncTracker};
pub use doctor::{Finding, Level, diagnose, diagnose_trusting};
pub use job::{Job, Stdio};
pub use keeper::main as keeper_main;
pub use ledger::Ledger;
pub use open::{Builder, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT, ECOSYSTEM_MANAGER_NAME};
pub use output::Output;
pub use process::{Process, Signaller};
pub use retention::{DEFAULT_KEEP_HISTORY, PruneProgress, Pruned};
pub use watch::Turn;

use crate::record::Report;

pub(crate) use crate::os::keeper::is_asked as keeper_is_asked;

/// A handle on an open ledger: starts programs, watches them, ends them.
///
/// Clones share one instance; it is `Send` and `Sync`. Dropping the last clone shuts the instance down, as
/// [`shutdown`](Tracker::shutdown) does.
///
/// A process that ends without dropping it shuts nothing down: `std::process::exit`, `panic = "abort"`, or a tracker in a
/// `static`, which is never dropped. Then its programs live on in `session` and `cgroup` containment until the ledger is opened
/// again. Call [`shutdown`](Tracker::shutdown) before the exit; or have a keeper
/// ([`ContainmentMode::Keeper`](crate::ContainmentMode::Keeper)), which ends them with the host whatever ended that, or a
/// `procledger watch` on the ledger, which ends them at once.
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

/// Shuts down when the last handle goes.
#[derive(Debug)]
struct Inner {
    shared: Arc<shared::Shared>,
    startup: Report,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // Closing SQLite's files in a forked child could remove the log that the parent still writes.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        if let Err(error) = shutdown::shut_down(&self.shared) {
            tracing::error!("failed to shut down: {error}");
        }
    }
}
