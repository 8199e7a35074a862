//! Starting programs, and registering processes that were started by other means.
//!
//! - [`containment`]: how the processes of a tree are kept together;
//! - [`group_commit`]: one transaction for the rows of spawns that wait together;
//! - [`job`]: the program to run, and its options;
//! - [`keeper_choice`]: which keeper an instance uses;
//! - [`register`]: processes that were started by other means;
//! - [`spawn`]: from a job to a process whose row is committed;
//! - [`under_keeper`]: a spawn with the gate relayed through a keeper.

pub(super) mod containment;
pub(super) mod group_commit;
pub(super) mod job;
pub(super) mod keeper_choice;
pub(super) mod register;
pub(super) mod spawn;
pub(super) mod under_keeper;
