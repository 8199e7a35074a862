//! The tracker: the operations of an open ledger.
//!
//! - [`runtime`]: components, each of which owns its data and depends on no other module here;
//! - [`options`] and [`core`]: the options, and the combination of the components;
//! - [`caller`]: the process on whose behalf a host runs its tasks;
//! - [`start`]: starting and registering processes;
//! - [`handle`]: waiting for a process and reading its output;
//! - [`membership`]: which processes belong to a tree;
//! - [`end`]: ending trees, and what follows when a root exits;
//! - [`passes`]: health, orphans, retention, and reaping for other instances;
//! - [`inspect`]: reading without changing anything;
//! - [`monitor`]: the thread that detects deaths and runs the passes that are due;
//! - [`facade`]: [`Tracker`], with each operation in a few lines;
//! - [`builder`]: opening a ledger;
//! - [`keeper`]: the `main` of a keeper.

mod builder;
mod caller;
mod core;
mod end;
mod facade;
mod handle;
mod inspect;
mod keeper;
mod membership;
mod monitor;
mod options;
mod passes;
mod runtime;
mod start;

pub use builder::{Builder, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT, ECOSYSTEM_MANAGER_NAME};
pub use caller::Caller;
pub use facade::Tracker;
#[cfg(feature = "tokio")]
pub use handle::asynchronous::{
    AsyncCommunicator, AsyncProcess, AsyncSubscription, AsyncTracker, ProcessSet,
};
pub use handle::exit::Exit;
pub use handle::output::{Communicator, Output};
pub use handle::process::{Process, Signaller};
pub use inspect::ledger::{Ledger, plan_name_match};
pub use inspect::{
    doctor::{Finding, Level, diagnose, diagnose_trusting},
    orphan_scan::scan_orphans,
    subscription::Subscription,
};
pub use keeper::main as keeper_main;
pub use passes::retention::{DEFAULT_KEEP_HISTORY, PruneProgress, Pruned};
pub use passes::watch::WatchCycle;
pub use start::job::{Job, Stdio};

pub(crate) use crate::sys::keeper::is_asked as keeper_is_asked;
