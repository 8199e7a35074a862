//! Components of an open tracker. Each owns its data, and depends on none of the modules that act
//! on it.
//!
//! - [`adopted_zombies`]: zombies that tasks may leave to this process;
//! - [`background_ends`]: the queue of trees that are ended in the background;
//! - [`cause`]: why trees are ended;
//! - [`cgroups`]: the cgroup of an instance, and the task cgroups in it;
//! - [`deaths`]: detecting deaths;
//! - [`export_notifier`]: the export, which is notified of changes;
//! - [`fork_listener`]: the state of the thread that listens for fork events;
//! - [`group_commit`]: one transaction for the rows of spawns that wait together;
//! - [`instance`]: this instance: its row, identity, lock and phase;
//! - [`keeper_end_log`]: processes that a keeper ended, in a file for the next instance;
//! - [`keeper_handle`]: the host's handle to a keeper while its program runs;
//! - [`keepers`]: the keeper that an instance uses;
//! - [`liveness`]: whether an instance is alive;
//! - [`lock`]: locking a mutex;
//! - [`maintenance`]: scheduling the checks of the ledger's history;
//! - [`memory_watch`]: the thread that checks memory limits;
//! - [`other_instances`]: the other instances of the ledger;
//! - [`pass_run`]: a pass in progress;
//! - [`pass_state`]: whether the monitor runs, and which passes are running;
//! - [`pending_writes`]: ends that could not be recorded yet;
//! - [`registry`]: the processes for which this instance is responsible;
//! - [`shared_list`]: a list that threads share;
//! - [`threads`]: the threads that a shutdown joins;
//! - [`tracked`]: the data in memory for each process;
//! - [`unrecorded_ends`]: ends that could not be written, kept in a file when the host ends.

pub(super) mod adopted_zombies;
pub(super) mod background_ends;
pub(super) mod cause;
pub(super) mod cgroups;
pub(super) mod deaths;
pub(super) mod export_notifier;
pub(super) mod fork_listener;
pub(super) mod group_commit;
pub(super) mod instance;
pub(super) mod keeper_end_log;
pub(super) mod keeper_handle;
pub(super) mod keepers;
pub(super) mod liveness;
pub(super) mod lock;
pub(super) mod maintenance;
pub(super) mod memory_watch;
pub(super) mod other_instances;
pub(super) mod pass_run;
pub(super) mod pass_state;
pub(super) mod pending_writes;
pub(super) mod registry;
pub(super) mod shared_list;
pub(super) mod threads;
pub(super) mod tracked;
pub(super) mod unrecorded_ends;
