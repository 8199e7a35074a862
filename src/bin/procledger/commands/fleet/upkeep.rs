//! `fleet maintain` and `fleet forget`: what the owner of the database does from time to time.

use clap::Args;
use procledger::fleet;

use super::address::To;
use crate::{
    exit::{Exit, Result},
    output,
    render::escape,
};

/// Create partitions ahead, delete old history, and recompute the sums of two weeks
#[derive(Debug, Args)]
#[command(after_help = "\
Run it once a day as the owner of the schema: `procledger fleet maintain` in a cron job or a timer.
How long history is kept is set by `fleet init --keep`.")]
pub(super) struct MaintainArgs {
    #[command(flatten)]
    to: To,
}

impl MaintainArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let done = fleet::maintain(&self.to.address()?)?;
        output::print_line(&format!(
            "partitions created: {}, dropped: {}; rows deleted: {}; ledgers whose sums were recomputed: {}",
            done.created.len(),
            done.dropped.len(),
            done.deleted,
            done.streams
        ))?;
        Ok(Exit::DONE)
    }
}

/// Give up a host that will not come back: what ran there is lost, its history stays
#[derive(Debug, Args)]
#[command(after_help = "\
If the host ships again it is shipped from the start, and counts as any other: nothing is counted twice.
What it ran when it was given up stays counted as lost.")]
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
