//! Ending trees, and what follows from an end.
//!
//! - [`background`]: ends that no caller waits for;
//! - [`childless`]: a root that certainly left no descendant;
//! - [`claims`]: claims of other instances on rows that end here;
//! - [`exit_statuses`]: exit statuses that cannot be had yet;
//! - [`forget`]: closing rows that cannot be judged here;
//! - [`outcome`]: from what became of a tree to what is recorded;
//! - [`root_exit`]: a root ended by itself;
//! - [`run`]: the course of an end, all trees of a call together;
//! - [`shutdown`]: the orderly end of a tracker;
//! - [`spared`]: what is left running on purpose;
//! - [`terminate`]: because the owner, or a person, asked.

pub(super) mod background;
pub(super) mod childless;
pub(super) mod claims;
pub(super) mod exit_statuses;
pub(super) mod forget;
pub(super) mod outcome;
pub(super) mod root_exit;
pub(super) mod run;
pub(super) mod shutdown;
pub(super) mod spared;
pub(super) mod terminate;
