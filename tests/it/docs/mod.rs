//! The pages and the layout of the source.

pub(crate) mod callers;
mod dependencies;
pub(crate) mod faults;
pub(crate) mod guarantees;
pub(crate) mod imports;
pub(crate) mod public_api;
pub(crate) mod readme;
pub(crate) mod tidy;
