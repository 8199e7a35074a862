//! Test helpers that know nothing of procledger: processes as the kernel reports them, bounded
//! waiting, PID namespaces, tools that may be missing, and reproducible random numbers.

mod fair_clock;
mod namespace;
mod postgres;
mod process;
mod random;
mod sample;
mod tools;
mod wait;

pub use fair_clock::FairClock;
pub use namespace::{namespaced, namespaces};
pub use postgres::{NOBODY, as_nobody, postgres_programs};
pub use process::{
    PidfdWatch, children, is_alive, is_only, parent, pidfd, pids, processes_with, start_tick,
    stat_field, state, status, threads, zombies_of,
};
pub use random::{Chance, random};
pub use sample::{long, sampled};
pub use tools::{find, root, skipped, tool};
pub use wait::{PATIENCE, at_once, await_tick, eventually, stays, until, within};
