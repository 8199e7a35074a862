//! Looking without changing anything.
//!
//! - [`doctor`]: what is wrong with a ledger or a machine;
//! - [`finding`]: what `doctor` has found;
//! - [`ledger`]: what is recorded;
//! - `metrics`: figures;
//! - [`trees`]: the same, joined with the processes as they are now;
//! - [`wal_readers`]: readers that hold back the WAL.

pub(super) mod doctor;
pub(super) mod finding;
pub(super) mod ledger;
pub(super) mod metrics;
pub(super) mod trees;
pub(super) mod wal_readers;
