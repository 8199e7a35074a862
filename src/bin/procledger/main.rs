//! The `procledger` command: a process ledger on the command line.
//!
//! Data goes to stdout, everything else to stderr. The command uses only the crate's public API and
//! never opens SQLite itself. Exit codes are in [`exit`]; the ledger's path, and the user that root
//! acts as, in [`context`].

mod ancestors;
mod args;
mod bounded_output;
mod commands;
mod context;
mod exit;
mod global_args;
mod history_args;
mod html;
mod inherited_fds;
mod ledger_path;
mod logging;
mod notify;
mod output;
mod pinned;
mod poll;
mod privilege;
mod render;
mod screen;
mod service;
mod signals;
mod task_pattern;
mod terminal_modes;
mod threads;
mod units;
mod usage_errors;

use std::process::ExitCode;

fn main() -> ExitCode {
    signals::take_over();
    let code = output::conclude(usage_errors::parse().and_then(args::Cli::run));
    output::flush();
    code
}
