//! `import`: ends the processes that a former processor left, as listed in its JSON file.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    inherited_fds::demand_descriptors,
    output,
    render::{Tense, report_exit, report_text},
    units,
};

/// End the processes that the former implementation left in its JSON file
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger import --orphan-name resource-claude-code /tmp/ecosystem-manager-processes.json

The file must be yours, and writable only by you. A process is ended only if its start time, a \
configured name and its parent all match; all others are listed and left running.")]
pub(crate) struct ImportArgs {
    /// JSON file
    file: PathBuf,
    /// Name of the executable or script of these processes (in addition to the profile's)
    #[arg(long, value_name = "NAME")]
    orphan_name: Vec<String>,
    /// Leave processes running that are younger than this
    #[arg(long, value_name = "D", value_parser = units::duration)]
    min_age: Option<Duration>,
    /// Print JSON in the format of `health --json`
    #[arg(long)]
    json: bool,
}

impl ImportArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        // A missing file is fine for a host that starts, but not if a person named it.
        fs::symlink_metadata(&self.file).map_err(|error| {
            Failure::because(format!("failed to access {}", self.file.display()), &error)
        })?;
        demand_descriptors()?;
        let mut builder = context.actor();
        for name in context.orphan_names(&self.orphan_name) {
            builder = builder.orphan_name(name);
        }
        if let Some(age) = self.min_age {
            builder = builder.min_age(age);
        }
        let tracker = builder.open()?;
        let report = tracker.import(&self.file)?;
        let text =
            if self.json { output::json(&report)? } else { report_text(&report, Tense::Done) };
        output::print(text)?;
        tracker.shutdown()?;
        Ok(report_exit(&report))
    }
}
