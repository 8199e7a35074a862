//! `prune`: deletes old history.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::bytes,
    units,
};

/// Time between two updates of the progress line.
const UPDATE: Duration = Duration::from_millis(100);

/// Delete old history and free its disk space
///
/// Deletes in steps of milliseconds, so that writers are not held up. Running processes, survivors
/// and the last pass of each kind are kept, and so is the last row of each table, so that no row
/// number is used twice. What a fleet does not have yet is kept as well (docs/ledger.md, table
/// `shipment`).
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger prune --older-than 90days --dry-run

--dry-run counts processes and passes. A few of them may have to be kept: the last ones, and roots \
whose descendants are younger.")]
pub(crate) struct PruneArgs {
    /// Delete processes that ended longer ago than this, or before this date (2026-11-01, UTC)
    #[arg(long, value_name = "D", value_parser = units::age)]
    older_than: Duration,
    /// Print how many rows would be deleted, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl PruneArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        if self.dry_run {
            let rows = context.read()?.prunable(self.older_than)?;
            output::print_line(&format!("nothing was changed; would delete up to {rows} rows"))?;
            return Ok(Exit::DONE);
        }
        let tracker = context.actor().open()?;
        let on_terminal = stderr().is_terminal();
        let mut shown = None::<Instant>;
        let result = tracker.prune(self.older_than, |progress| {
            if on_terminal && shown.is_none_or(|at| at.elapsed() >= UPDATE) {
                shown = Some(Instant::now());
                // The expected number does not include old instances.
                let of = progress.expected.max(progress.rows);
                let _ = write!(stderr(), "\r{}/{of} rows\x1b[K", progress.rows);
            }
        });
        if shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
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
