//! The command.

pub(crate) mod browser;
pub(crate) mod command;
pub(crate) mod command_bad_input;
pub(crate) mod command_demo;
pub(crate) mod command_kill;
pub(crate) mod command_ps_watch;
pub(crate) mod command_queries;
pub(crate) mod command_reap;
pub(crate) mod command_run;
pub(crate) mod command_run_ends;
pub(crate) mod command_terminal;
pub(crate) mod command_tree;
pub(crate) mod command_watch;
pub(crate) mod doctor_knows_the_keeper;
pub(crate) mod in_a_browser;
pub(crate) mod installed;
pub(crate) mod log_lines;
pub(crate) mod metrics;
mod metrics_of_many;
pub(crate) mod outputs_that_are_the_ledger;
pub(crate) mod pty;
pub(crate) mod report_in_a_browser;
pub(crate) mod run_callers;
pub(crate) mod run_callers_killed_at_random;
pub(crate) mod run_terminal;
pub(crate) mod systemd_units;
