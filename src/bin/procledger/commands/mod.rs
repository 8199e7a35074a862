//! One file per subcommand: its arguments, their validation, and what it does.

pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod demo_host;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod fleet;
pub(crate) mod forget;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod kill;
pub(crate) mod man;
pub(crate) mod metrics;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod reap;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod ship;
pub(crate) mod tree;
pub(crate) mod wait;
pub(crate) mod watch;

mod demo_guard;
mod ps_json;
mod ps_table;
mod ps_watch;
mod report_lines;
mod report_task;
mod run_advice;
mod run_caller;
pub(crate) mod run_detach;
mod run_end;
mod run_events;
mod run_forwarded_signals;
mod run_stop_signals;
mod ship_backoff;
mod ship_fleet;
mod ship_lines;
mod ship_status;
mod ship_watchdog;
mod watch_hook;

use procledger::TaskId;

use crate::exit::{Failure, Result};

/// Validates task ids from the command line.
fn task_ids(typed: Vec<String>) -> Result<Vec<TaskId>> {
    typed
        .into_iter()
        .map(|id| TaskId::new(id).map_err(|error| Failure::usage(error.to_string())))
        .collect()
}
