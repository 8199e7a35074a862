//! Which processes belong to a tree, on the machine as it is.
//!
//! [`crate::policy::membership`] decides; this module collects what it decides from, and reads what links one process to a tree:
//!
//! - [`evidence`]: the evidence of one process, read and verified at one PID;
//! - [`foreign_roots`]: what other instances are responsible for;
//! - [`observation`]: the facts about many trees that are not being ended;
//! - [`process_info`]: what was observed of a member;
//! - [`recorded_keeper`]: the keeper that a row names;
//! - [`task_cgroup`]: the processes in a task cgroup.
//!
//! Four parts of the tracker ask for less than a membership, one process at a time, and let a scan decide: whether a root is
//! childless, whether a process appeared during a scan, what is stopped on sight during a fork race, and which forked process
//! is worth a row. All of them use [`evidence`], and a process that they name is not a member before a scan says so.

pub(super) mod evidence;
pub(super) mod foreign_roots;
pub(super) mod observation;
pub(super) mod process_info;
pub(super) mod recorded_keeper;
pub(super) mod task_cgroup;
