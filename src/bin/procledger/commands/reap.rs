//! `reap`: ends what dead owners left, or shows what it would end.

use std::time::Duration;

use clap::Args;
use procledger::{Report, plan_name_match};

use crate::{
    context::{Access, Context},
    exit::{Exit, Failure, Result},
    inherited_fds::demand_descriptors,
    output,
    render::{Tense, escape, report_exit, report_text, suspects},
    units,
};

/// Minimum age of a name match in a dry run: a name alone proves little about a process that has
/// just started. A real pass uses the library's default.
use procledger::DEFAULT_MIN_AGE as MIN_AGE;

/// End what dead owners left (orphans), and unregistered processes with the given names
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger reap --dry-run --orphan-name resource-claude-code

A name is compared with the base name of the executable, of argv[0] or of the script, never with \
other text in a command line; --protect takes precedence. Processes that are left running are \
recorded as `kept`. Matches that are younger than --min-age are counted as `too young`; -v lists \
them. A dry run with names needs no ledger; `procledger scan` finds such names. Exits with 3 if \
something survived or could not be examined.
--json: the same as `health --json`; in a dry run `outcome` is what would be done. `young` lists \
what --min-age left out, in the form of suspects.")]
pub(crate) struct ReapArgs {
    /// Print what would be ended, with rule and evidence, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also end unregistered processes with this name (in addition to the profile's)
    #[arg(long, value_name = "NAME")]
    orphan_name: Vec<String>,
    /// Leave programs with this name and their descendants running
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
    /// Leave processes running that were found only by name and are younger than this [default:
    /// 10s]
    #[arg(long, value_name = "D", value_parser = units::duration)]
    min_age: Option<Duration>,
}

impl ReapArgs {
    /// A dry run creates nothing, and needs no ledger to look for names.
    pub(crate) fn access(&self) -> Access {
        if self.dry_run { Access::Inspect } else { Access::Create }
    }

    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        if self.orphan_name.iter().any(|name| name.is_empty() || name.contains('/')) {
            return Err(Failure::usage(
                "--orphan-name is the base name of a program: not empty, without a slash",
            ));
        }
        if self.dry_run { self.plan(context) } else { self.reap(context) }
    }

    fn plan(&self, context: &Context) -> Result<Exit> {
        let names = context.orphan_names(&self.orphan_name);
        let min_age = self.min_age.unwrap_or(MIN_AGE);
        let plan = if names.is_empty() || context.has_ledger() {
            context.demand_ledger()?;
            context.read()?.protected_names(&self.protect).plan_reap(&names, min_age)?
        } else {
            output::to_stderr(&escape(&format!(
                "no ledger at {}: only processes with these names were looked for",
                context.ledger.display()
            )));
            plan_name_match(&names, &self.protect, min_age)?
        };
        self.print(&plan, Tense::Planned, context.verbose)?;
        Ok(match report_exit(&plan) {
            // Nothing was attempted, so nothing survived.
            Exit::SURVIVED => Exit::DONE,
            exit => exit,
        })
    }

    fn reap(&self, context: &Context) -> Result<Exit> {
        let mut builder = context.reaper().readers(0).monitor(false).protected_names(&self.protect);
        for name in &self.orphan_name {
            builder = builder.orphan_name(name);
        }
        if let Some(age) = self.min_age {
            builder = builder.min_age(age);
        }
        demand_descriptors()?;
        // Without names there was nothing to look for: the path may be mistyped.
        let was_needed = context.orphan_names(&self.orphan_name).is_empty();
        let is_missing = was_needed && !context.has_ledger();
        // Opening the ledger reaps.
        let tracker = builder.open()?;
        if is_missing {
            let path = context.ledger.display();
            output::to_stderr(&escape(&format!(
                "there was no ledger at {path}: an empty one was created"
            )));
        }
        let report = tracker.startup_report().clone();
        self.print(&report, Tense::Done, context.verbose)?;
        tracker.shutdown()?;
        Ok(report_exit(&report))
    }

    fn print(&self, report: &Report, tense: Tense, verbose: bool) -> Result<()> {
        if self.json {
            return output::print(output::json(report)?).map(drop);
        }
        let mut text = String::new();
        if verbose && !report.young.is_empty() {
            text += "Left running (younger than --min-age):\n";
            text += &suspects(&report.young);
            text += "\n";
        }
        output::print(text + &report_text(report, tense)).map(drop)
    }
}
