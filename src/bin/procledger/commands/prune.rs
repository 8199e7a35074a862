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
    output,
    render::bytes,
    units,
};

/// Delete old history and free its disk space
///
/// Deletes in steps of milliseconds, so that writers are not held up. Running processes, survivors and the last pass of each
/// kind are kept, and so is the last row of each table, so that no row number is used twice.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  procledger prune --older-than 90days")]
pub(crate) struct PruneArgs {
    /// Delete processes that ended longer ago than this
    #[arg(long, value_name = "D", value_parser = units::duration)]
    older_than: Duration,
}

impl PruneArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tracker = context.actor().open()?;
        let bar = if stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let result = tracker.prune(self.older_than, |progress| {
            // The expected number does not include old instances.
            bar.set_length(progress.expected.max(progress.rows));
            bar.set_position(progress.rows);
        });
        bar.finish_and_clear();
        let pruned = result?;
        let freed = bytes(Some(pruned.bytes));
        output::print_line(&format!(
            "deleted {} rows, the ledger is {freed} smaller",
            pruned.rows
        ))?;
        tracker.shutdown()?;
        Ok(Exit::DONE)
    }
}
