//! `health`: runs one health pass.

use clap::Args;

use crate::{
    context::Context,
    exit::{Exit, Result},
    inherited_fds::demand_descriptors,
    output,
    render::{Tense, report_exit, report_text},
};

/// Check every recorded process once, and record those that are dead
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger health

Rows of a live owner are left to that owner, which knows the exit codes.
--json: {checked, endings, suspects, young, adopted, errors}; an ending is {task_id, pid, command, \
rule, evidence, outcome (gone, term, kill, survived, kept), died_after_ms, obstacle}.")]
pub(crate) struct HealthArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl HealthArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        demand_descriptors()?;
        let tracker = context.actor().open()?;
        let report = tracker.health_pass()?;
        let text =
            if self.json { output::json(&report)? } else { report_text(&report, Tense::Done) };
        output::print(text)?;
        tracker.shutdown()?;
        Ok(report_exit(&report))
    }
}
