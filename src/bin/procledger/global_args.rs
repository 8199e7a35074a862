//! Options that every subcommand takes.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueEnum};

use crate::exit::{Exit, Failure, Result};

/// The variable that the library reads for the same purpose.
const TRUST_VARIABLE: &str = "PROCLEDGER_TRUST_FOLDER";

#[derive(Clone, Debug, Args)]
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
    trust_folder: Option<PathBuf>,
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

impl GlobalArgs {
    /// Returns the same options for another ledger.
    pub(crate) fn on(&self, ledger: &Path) -> Self {
        Self { db: Some(ledger.to_owned()), ..self.clone() }
    }

    /// Returns those of these options that the workers of a supervisor need, as arguments.
    pub(crate) fn to_arguments(&self) -> Result<Vec<String>> {
        let mut words: Vec<String> = (0..self.verbose).map(|_| "-v".to_owned()).collect();
        words.extend(self.migrate.then(|| "--migrate".to_owned()));
        if let Some(dir) = self.trust_folder()? {
            words.extend(["--trust-folder".to_owned(), dir.to_string_lossy().into_owned()]);
        }
        Ok(words)
    }

    /// Returns the trusted folder as an absolute path. Fails if `--trust-folder`, or else its
    /// environment variable, which the library reads, does not name a folder: it would have no
    /// effect.
    pub(crate) fn trust_folder(&self) -> Result<Option<PathBuf>> {
        let from_environment = || std::env::var_os(TRUST_VARIABLE).filter(|name| !name.is_empty());
        match (&self.trust_folder, from_environment()) {
            (Some(folder), _) => absolute(folder, "--trust-folder").map(Some),
            (None, Some(folder)) => {
                absolute(Path::new(&folder), &format!("${TRUST_VARIABLE}")).map(|_| None)
            }
            (None, None) => Ok(None),
        }
    }

    /// Fails if an option is given that makes no sense for a subcommand that opens no ledger of its
    /// own.
    pub(crate) fn refuse_options_of_a_ledger(&self, subcommand: &str) -> Result<()> {
        let given = [
            ("--db", self.db.is_some()),
            ("--profile", self.profile.is_some()),
            ("--export", self.export.is_some()),
            ("--trust-folder", self.trust_folder.is_some()),
            ("--migrate", self.migrate),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(Failure::usage(format!(
                "{option} is of no use to `procledger {subcommand}`, which needs no ledger"
            ))),
            None => Ok(()),
        }
    }

    /// Fails if an option is given that makes no sense for several ledgers.
    pub(crate) fn refuse_options_of_one_ledger(&self) -> Result<()> {
        let given = [
            ("--export", self.export.is_some()),
            ("--profile", self.profile.is_some()),
            ("--log-file", self.log_file.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(Failure::usage(format!(
                "{option} applies to a single ledger: name only that one, with --db"
            ))),
            None => Ok(()),
        }
    }
}

fn absolute(folder: &Path, option: &str) -> Result<PathBuf> {
    let shown = folder.display();
    match folder.canonicalize() {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(_) => Err(Failure::usage(format!("{option} names `{shown}`, which is not a folder"))),
        Err(error) => Err(Failure {
            exit: Exit::USAGE,
            ..Failure::because(format!("{option} names the folder `{shown}`"), &error)
        }),
    }
}

/// Settings of a known program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    // A comment instead of help: with value help, every option of every subcommand would take three
    // lines. Exports to /tmp/ecosystem-manager-processes.json, matches the name
    // resource-claude-code.
    EcosystemManager,
}
