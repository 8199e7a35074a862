//! Determines which processes on this machine belong to a tree.
//!
//! [`crate::policy::membership`] decides; this module collects the facts for the decision, and the
//! evidence that links one process to a tree:
//!
//! - [`evidence`]: the evidence of one process, read and verified at one PID;
//! - [`foreign_roots`]: the processes for which other instances are responsible;
//! - [`observation`]: the facts about many trees that are not being ended;
//! - [`process_info`]: the observed facts of a member;
//! - [`recorded_keeper`]: the keeper that is recorded in a row;
//! - [`task_cgroup`]: the processes in a task cgroup.
//!
//! Four parts of the tracker need less than the membership of a tree, and examine one process at a
//! time: whether a root is childless, whether a process appeared during a scan, which processes are
//! stopped on sight during a fork race, and which forked process needs a row. All of them use
//! [`evidence`], but only a scan makes a process a member.

pub(super) mod evidence;
pub(super) mod foreign_roots;
pub(super) mod observation;
pub(super) mod process_info;
pub(super) mod recorded_keeper;
pub(super) mod task_cgroup;
