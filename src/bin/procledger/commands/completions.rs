//! `completions`: completion scripts for shells.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{
    exit::{Exit, Result},
    output,
};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  procledger completions bash > ~/.local/share/bash-completion/completions/procledger"
)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self, mut command: Command) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "procledger", &mut script);
        output::print(script)?;
        Ok(Exit::DONE)
    }
}
