//! `man`: writes the manual pages, for packagers. Hidden, because all others use installed pages
//! and `--help`.

use std::{fs, path::PathBuf};

use clap::{Args, Command};

use crate::exit::{Exit, Failure, Result};

/// Write the manual pages, procledger(1) and one for each subcommand, to a directory
#[derive(Debug, Args)]
#[command(
    hide = true,
    after_help = "Example:\n  procledger man ~/.local/share/man/man1 && man procledger-run"
)]
pub(crate) struct ManArgs {
    /// Directory to write to; created if missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    pub(crate) fn run(self, command: Command) -> Result<Exit> {
        fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(command, &self.folder))
            .map_err(|error| {
                let what = format!("failed to write manual pages to {}", self.folder.display());
                Failure::because(what, &error)
            })?;
        Ok(Exit::DONE)
    }
}
