//! Starting programs, and taking over processes that were started by other means.
//!
//! - [`containment`]: what keeps a tree together;
//! - [`group_commit`]: the rows of spawns that wait together, in one transaction;
//! - [`job`]: what a caller asks for;
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
