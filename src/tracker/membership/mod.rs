//! Which processes belong to a tree, on the machine as it is.
//!
//! - [`evidence`]: what makes one process a member, read and verified at one PID;
//! - [`process_info`]: what was observed of a member;
//! - [`recorded_keeper`]: the keeper that a row names.

pub(super) mod evidence;
pub(super) mod process_info;
pub(super) mod recorded_keeper;
