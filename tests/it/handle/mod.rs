//! Handles on a process, and the library as a host uses it.

pub(crate) mod another_runtime;
pub(crate) mod api_over_http;
pub(crate) mod as_a_host;
pub(crate) mod communication;
pub(crate) mod dropped_handles;
pub(crate) mod exit_without_a_shutdown;
pub(crate) mod exits;
pub(crate) mod failed_operation;
pub(crate) mod grandchild_holds_stdout;
pub(crate) mod process_death;
pub(crate) mod process_set;
pub(crate) mod refusals;
pub(crate) mod signal_numbers;
pub(crate) mod signal_trees;
pub(crate) mod stopped_group;
pub(crate) mod subscriptions;
pub(crate) mod survive;
pub(crate) mod thread_ends;
pub(crate) mod tokio_futures;
pub(crate) mod unusual_hosts;
pub(crate) mod verbs;
