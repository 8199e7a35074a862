//! Read-only views that change nothing.
//!
//! - [`doctor`]: problems of a ledger or a machine;
//! - [`ledger`]: the recorded data;
//! - `metrics`: figures;
//! - [`orphan_scan`]: processes that look orphaned, without a ledger;
//! - [`subscription`]: ends, survivors and leaks as they are recorded, which [`writes`] detects;
//! - [`trees`]: the recorded data, joined with the processes as they are now;
//! - [`wait`]: waiting for the end of a process of any instance.

pub(super) mod doctor;
pub(super) mod ledger;
pub(super) mod metrics;
pub(super) mod orphan_scan;
pub(super) mod subscription;
pub(super) mod trees;
mod wait;
pub(super) mod writes;
