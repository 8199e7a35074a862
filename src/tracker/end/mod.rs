//! Ending trees, and recording what became of them.
//!
//! - [`background`]: ends that no caller waits for;
//! - [`childless`]: roots that certainly left no descendant;
//! - [`claims`]: claims of other instances on rows that are ended here;
//! - [`exit_statuses`]: exit statuses that are not available yet;
//! - [`forget`]: closing rows of processes that cannot be checked from here;
//! - [`kill_options`]: what a person may choose about a kill;
//! - [`outcome`]: turning what became of a tree into rows, leaks and a report;
//! - [`root_exit`]: roots that ended by themselves;
//! - [`run`]: the steps of an end, for all trees of a call together;
//! - [`shutdown`]: the orderly shutdown of a tracker;
//! - [`orphaned`]: tasks of a living host whose caller has ended;
//! - [`spared`]: processes that are left running on purpose;
//! - [`terminate`]: ends that the owner, or a person, requested.

pub(super) mod background;
pub(super) mod childless;
pub(super) mod claims;
pub(super) mod exit_statuses;
pub(super) mod forget;
pub(super) mod kill_options;
mod orphaned;
pub(super) mod outcome;
pub(super) mod root_exit;
pub(super) mod run;
pub(super) mod shutdown;
pub(super) mod spared;
pub(super) mod terminate;
