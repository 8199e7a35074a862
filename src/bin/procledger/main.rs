//! The `procledger` command: a ledger of processes for people at a shell.
//!
//! Data goes to stdout, everything else to stderr. What it can do it does through the crate's public API; it never
//! opens SQLite itself. Exit codes are in [`exit`], where a ledger lies and whom root acts as in [`context`].

mod args;
mod commands;
mod context;
mod exit;
mod global_args;
mod keeping;
mod ledger_path;
mod logging;
mod notify;
mod outlet;
mod output;
mod page;
mod pin;
mod privilege;
mod render;
mod service;
mod signals;
mod terminal;
mod units;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    signals::outlive_file_limit();
    let code = output::conclude(args::Cli::parse().run());
    output::flush();
    code
}
