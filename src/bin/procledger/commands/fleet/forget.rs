//! `fleet forget`: gives up a host that will not come back.

use clap::Args;
use procledger::fleet;

use super::address::To;
use crate::{
    exit::{Exit, Result},
    output,
    render::escape,
};

/// Give up a host that will not come back: what ran there is lost, its history stays
#[derive(Debug, Args)]
#[command(after_help = "\
If the host ships again, it is shipped from the start and counts as any other host; nothing is \
counted twice. Processes that ran when it was given up stay counted as lost.")]
pub(super) struct ForgetArgs {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    to: To,
}

impl ForgetArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let done = fleet::forget(&self.to.address()?, &self.host)?;
        output::print_line(&escape(&format!(
            "gave up {}: ledgers {}; lost: processes {}, leaks {}; the history stays",
            self.host, done.ledgers, done.processes, done.leaks
        )))?;
        Ok(Exit::DONE)
    }
}
