//! `fleet maintain`: creates partitions, deletes old history, recomputes sums, and rebuilds keys.

use clap::Args;
use procledger::fleet;

use super::address::To;
use crate::{
    exit::{Exit, Result},
    output,
};

/// Create partitions ahead, delete old history, recompute the sums of two weeks, and rebuild keys
#[derive(Debug, Args)]
#[command(after_help = "\
Run this once a day as the owner of the schema, from cron or a timer. `fleet init --keep` sets how \
long history is kept.")]
pub(super) struct MaintainArgs {
    #[command(flatten)]
    to: To,
}

impl MaintainArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let done = fleet::maintain(&self.to.address()?)?;
        output::print_line(&format!(
            "partitions created: {}, dropped: {}; rows deleted: {}; ledgers whose sums were recomputed: {}; keys rebuilt: {}",
            done.created.len(),
            done.dropped.len(),
            done.deleted,
            done.streams,
            done.rebuilt.len()
        ))?;
        Ok(Exit::DONE)
    }
}
