//! `forget`: closes rows whose processes cannot be checked.

use clap::Args;
use procledger::{TaskId, Tracker};

use super::task_ids;
use crate::{
    context::Context,
    exit::{Exit, Result, chain},
    output,
    render::escape,
};

/// Close the rows of a task whose state cannot be determined here (another machine or namespace)
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger forget build-17

Sends no signal. Refuses a task that is known to run and whose owner is alive: `kill` it instead.")]
pub(crate) struct ForgetArgs {
    /// Tasks to forget
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

impl ForgetArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tasks = task_ids(self.tasks)?;
        let tracker = context.actor().open()?;
        let mut exit = Exit::DONE;
        for task in &tasks {
            if let Err(error) = forget(&tracker, task, &context.asked_by("forget")) {
                output::warn(&error);
                exit = Exit::FAILED;
            }
        }
        tracker.shutdown()?;
        Ok(exit)
    }
}

fn forget(tracker: &Tracker, task: &TaskId, asked_by: &str) -> Result<(), String> {
    let rows = tracker.forget(task.as_str(), asked_by).map_err(|error| {
        if error.is_not_found() {
            format!("no task {task} is open in the ledger: `procledger ps` lists those that are")
        } else {
            chain(&error)
        }
    })?;
    let rows = if rows == 1 { "1 process".to_owned() } else { format!("{rows} processes") };
    output::print_line(&format!("{}: forgot {rows}", escape(task.as_str())))
        .map(drop)
        .map_err(|failure| failure.message)
}
