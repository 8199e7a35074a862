//! Starts programs, and registers processes that were started by other means.
//!
//! - [`job`]: the program to run, and its options;
//! - [`attributes`]: options that the child sets up between clone and exec, and getters;
//! - [`register`]: processes that were started by other means;
//! - [`spawn`]: from a job to a process whose row is committed;
//! - [`spec`]: the resolved job;
//! - [`under_keeper`]: a spawn with the gate relayed through a keeper.

mod attributes;
pub(super) mod job;
pub(super) mod register;
pub(super) mod spawn;
mod spec;
pub(super) mod under_keeper;
