//! Passes: the checks that are repeated, and what they share.
//!
//! - [`descendants`]: the members of each tree, recorded with memory and CPU time;
//! - [`fork_events`]: descendants that leave their session between two health passes;
//! - [`health`]: whether the recorded processes are still alive;
//! - [`import`]: the list that the former implementation left;
//! - [`keeper_end_logs`]: processes that keepers have ended after their host died;
//! - [`memory_limits`]: limits on the memory of trees;
//! - [`name_match`]: unregistered processes with a configured name;
//! - [`orphans`]: processes that dead instances left;
//! - [`retention`]: deleting old history, and the size of the ledger;
//! - [`watch`]: reaping for other instances;
//! - [`watch_folder`]: changes beside a ledger.

pub(super) mod descendants;
pub(super) mod fork_events;
pub(super) mod health;
pub(super) mod import;
pub(super) mod keeper_end_logs;
pub(super) mod memory_limits;
pub(super) mod name_match;
pub(super) mod orphans;
pub(super) mod retention;
pub(super) mod watch;
pub(super) mod watch_folder;
