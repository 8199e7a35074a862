//! `prune`: deletes old history.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use clap::Args;
use indicatif::ProgressBar;

use crate::{
    context::Context,
    exit::{Exit, Result},
    output, units,
};

/// Delete the history of what ended long ago and give the space back
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  procledger prune --older-than 90days")]
pub(crate) struct PruneArgs {
    /// Delete what ended longer ago than this
    #[arg(long, value_name = "D", value_parser = units::duration)]
    older_than: Duration,
}

impl PruneArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tracker = context.actor().open()?;
        let bar = if stderr().is_terminal() {
            ProgressBar::new_spinner().with_message("pruning")
        } else {
            ProgressBar::hidden()
        };
        let result = tracker.prune(self.older_than, |rows| {
            bar.set_message(format!("pruning: {rows} rows"));
            bar.tick();
        });
        bar.finish_and_clear();
        let rows = result?;
        output::print_line(&format!("deleted {rows} rows"))?;
        tracker.shutdown()?;
        Ok(Exit::DONE)
    }
}
