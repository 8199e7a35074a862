//! State that an open tracker keeps while it runs.
//!
//! - [`adopted_zombies`]: zombies that tasks leave to this process;
//! - [`instance`]: this instance: its row, identity and lock, and how far it has come;
//! - [`keeper_end_log`]: processes that a keeper has ended, in a file for the next opener;
//! - [`keeper_handle`]: the host's handle on a keeper while its program runs;
//! - [`liveness`]: whether an instance is alive;
//! - [`lock`]: locking a mutex;
//! - [`monitor`]: the thread that sleeps on pidfds and runs the passes;
//! - [`pending_writes`]: ends that could not be written yet;
//! - [`tracked`]: what is kept in memory for each process;
//! - [`unrecorded_ends`]: ends that could not be written, kept in a file when the host ends.

pub(super) mod adopted_zombies;
pub(super) mod instance;
pub(super) mod keeper_end_log;
pub(super) mod keeper_handle;
pub(super) mod liveness;
pub(super) mod lock;
pub(super) mod monitor;
pub(super) mod pending_writes;
pub(super) mod tracked;
pub(super) mod unrecorded_ends;
