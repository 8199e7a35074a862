//! Passes: the periodic checks, and the code that they share.
//!
//! - [`adopted_zombies`]: checks for zombies that tasks leave;
//! - [`descendants`]: the members of each tree, recorded with memory and CPU time;
//! - [`fork_events`]: descendants that leave their session between two health passes;
//! - [`health`]: whether the recorded processes are still alive;
//! - [`held_pidfds`]: our rows whose processes are alive;
//! - [`import`]: the list that the former implementation left;
//! - [`memory_limits`]: limits on the memory of trees;
//! - [`name_match`]: unregistered processes with a configured name;
//! - [`orphans`]: processes that dead instances left;
//! - [`pass`]: the trait of passes;
//! - [`pending_ends`]: checks of pending ends;
//! - [`retention`]: deleting old history, and the size of the ledger;
//! - [`run_time`]: limits on the run time of trees;
//! - [`schedule`]: when passes are due;
//! - [`tree_memory`]: the memory that a tree uses;
//! - [`watch`]: reaping for other instances;
//! - [`watch_folder`]: changes beside a ledger.

pub(super) mod adopted_zombies;
pub(super) mod descendants;
pub(super) mod fork_events;
pub(super) mod health;
pub(super) mod held_pidfds;
pub(super) mod import;
pub(super) mod memory_limits;
pub(super) mod name_match;
pub(super) mod orphans;
pub(super) mod pass;
pub(super) mod pending_ends;
pub(super) mod retention;
pub(super) mod run_time;
pub(super) mod schedule;
pub(super) mod tree_memory;
pub(super) mod watch;
pub(super) mod watch_folder;
