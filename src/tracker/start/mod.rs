//! Starting programs, and registering processes that were started by other means.
//!
//! - [`job`]: the program to run, and its options;
//! - [`register`]: processes that were started by other means;
//! - [`request`]: the contents of the row of a child at the gate;
//! - [`spawn`]: from a job to a process whose row is committed;
//! - [`under_keeper`]: a spawn with the gate relayed through a keeper.

pub(super) mod job;
pub(super) mod register;
pub(super) mod request;
pub(super) mod spawn;
pub(super) mod under_keeper;
