//! Options that every subcommand takes.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Ledger file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// Use the settings of a known program: JSON export, names, grace, interval
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<Profile>,
    /// Keep a JSON file of the running tasks (used by run, watch and reap; checked by doctor)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
    /// Trust all users that can write this folder on the ledger's path not to replace the ledger
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) trust_folder: Option<PathBuf>,
    /// Migrate a ledger of an older version first, as `run` does (other commands use it as it is)
    #[arg(long, global = true)]
    pub(crate) migrate: bool,
    /// Append the log to this file (created with mode 0600)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Increase verbosity (-v, -vv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Settings of a known program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    // A comment instead of help: with value help, every option of every subcommand would take three lines.
    // Exports to /tmp/ecosystem-manager-processes.json, matches the name resource-claude-code.
    EcosystemManager,
}
