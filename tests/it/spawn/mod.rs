//! Starting programs.

pub(crate) mod attributes;
pub(crate) mod clean_program;
pub(crate) mod clone2_fallback;
pub(crate) mod file_size_limit;
pub(crate) mod gate_host;
pub(crate) mod group_commit_under_load;
pub(crate) mod invariant_01_recorded_before_it_runs;
pub(crate) mod invariant_10_fail_closed;
pub(crate) mod no_thread;
pub(crate) mod not_started;
pub(crate) mod other_user;
pub(crate) mod refused_calls;
pub(crate) mod secrets;
pub(crate) mod storm;
