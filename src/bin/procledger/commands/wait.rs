//! `wait`: waits for tasks of any owner, and exits with their status.

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use procledger::{Ledger, ProcessId, ProcessRecord, Query, State, TaskId};

use super::{
    run_end::{Verbosity, conclude, why},
    task_ids,
};
use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output, task_pattern, units,
};

/// The newest rows of a task among which its program is searched for; the others are its
/// descendants.
const NEWEST: u32 = 10_000;

/// Wait for tasks to end, and exit with their status
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger wait nightly
  procledger wait 'agent-7/*' --timeout 10m

Waits for the program and for the end of what it leaves, whichever process started the task. The \
status of a task that has ended is read from the ledger. A name with `*` or `?` is a pattern, as \
for `kill`, for the tasks that run now. Changes nothing.

Exit codes, as of `run` of the task: the code of the program, or 128 + N if signal N ended it; \
never 0 if something else ended it, in which case one line on stderr says why; 124 after \
--max-runtime. With several tasks: the first code that is not 0, in the order of the command line. \
75 if a task still runs after --timeout, 127 if there is no such task, 125 if procledger failed or \
the exit code is unknown.")]
pub(crate) struct WaitArgs {
    /// Tasks to wait for, or patterns
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
    /// Wait at most this long for all of them
    #[arg(long, value_name = "D", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Print no line about how a program was ended (-v prints one in any case)
    #[arg(short, long)]
    quiet: bool,
}

impl WaitArgs {
    pub(crate) fn run(self, context: Result<Context>) -> Result<Exit> {
        let tasks = task_ids(self.tasks.clone())?;
        // Like `run`, so that a failure is not mistaken for the program's own 1.
        let own = |failure: Failure| match failure.exit {
            Exit::FAILED => failure.with_exit(Exit::RUN_FAILED),
            _ => failure,
        };
        context.and_then(|context| self.wait(&context, tasks)).map_err(own)
    }

    fn wait(&self, context: &Context, tasks: Vec<TaskId>) -> Result<Exit> {
        let ledger = context.read()?;
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let verbosity = Verbosity::of(self.quiet, context.verbose);
        // All tasks are looked up first, since a task may end and start again while another one is
        // waited for.
        let roots = ledger.roots()?;
        let mut exits = Vec::new();
        let mut found = Vec::new();
        for task in tasks {
            let programs = programs(&ledger, &roots, &task)?;
            if programs.is_empty() {
                warn_of_unknown_task(&task);
                exits.push(Exit::NOT_FOUND);
            }
            for (task, id) in programs {
                refuse_own(&ledger, &task)?;
                found.push((exits.len(), task, id));
                exits.push(Exit::DONE);
            }
        }
        for (index, task, id) in found {
            exits[index] = self.wait_for(&ledger, &task, id, deadline, verbosity)?;
        }
        Ok(exits.into_iter().find(|exit| *exit != Exit::DONE).unwrap_or(Exit::DONE))
    }

    fn wait_for(
        &self,
        ledger: &Ledger,
        task: &TaskId,
        id: ProcessId,
        deadline: Option<Instant>,
        verbosity: Verbosity,
    ) -> Result<Exit> {
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let still_runs = || {
            let limit = self.timeout.unwrap_or_default();
            output::warn(&format!("task {task} still runs after {limit:?}"));
            Ok(Exit::ALREADY_RUNNING)
        };
        let record = match ledger.wait(id, left()) {
            Ok(Some(record)) => record,
            Ok(None) => return still_runs(),
            Err(error) if error.is_unknown() => {
                output::warn(&format!("task {task}: {error}: `procledger reap` records its end"));
                return Ok(Exit::RUN_FAILED);
            }
            Err(error) => return Err(error.into()),
        };
        // What the program left is being ended. A survivor may live forever.
        let is_left =
            |row: &ProcessRecord| row.spec.root == Some(id) && row.life.state() != State::Survived;
        for row in ledger.processes()?.into_iter().filter(is_left) {
            match ledger.wait(row.id, left()) {
                Ok(Some(_)) => {}
                Ok(None) => return still_runs(),
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let end =
            record.life.end().ok_or_else(|| Failure::new("a process has ended without an end"))?;
        let after = end.at.duration_since(record.spec.started_at).unwrap_or_default();
        conclude(why(&record), end.status, after, task, verbosity)
    }
}

/// Returns the programs that a name means: those that run, else the last one of exactly this task.
fn programs(
    ledger: &Ledger,
    roots: &[ProcessRecord],
    task: &TaskId,
) -> Result<Vec<(TaskId, ProcessId)>> {
    let ids: Vec<&TaskId> = roots.iter().filter_map(|row| row.spec.task_id.as_ref()).collect();
    let names = task_pattern::matching(task.as_str(), &ids);
    let is_named = |row: &&ProcessRecord| {
        row.spec.task_id.as_ref().is_some_and(|id| names.contains(&id.as_str()))
    };
    let program_of = |row: &ProcessRecord| Some((row.spec.task_id.clone()?, row.id));
    let running: Vec<_> = roots.iter().filter(is_named).filter_map(program_of).collect();
    if !running.is_empty() {
        return Ok(running);
    }
    let ended = ledger.history(Query::new().task_id(task.as_str()).limit(NEWEST))?;
    Ok(ended.iter().find(|row| row.spec.root.is_none()).and_then(program_of).into_iter().collect())
}

fn warn_of_unknown_task(task: &TaskId) {
    output::warn(&if task_pattern::is_pattern(task.as_str()) {
        format!(
            "no running task matches {task}: name a task to get the status of one that has ended"
        )
    } else {
        format!("no task {task} is in the ledger: `procledger ps` lists those that run")
    });
}

/// Fails if the task runs this command: it would wait for itself.
fn refuse_own(ledger: &Ledger, task: &TaskId) -> Result<()> {
    let is_own = env::var("PROCLEDGER_TASK").is_ok_and(|own| own == task.as_str())
        && env::var_os("PROCLEDGER_LEDGER").is_some_and(|own| Path::new(&own) == ledger.path());
    if is_own {
        return Err(Failure::usage(format!(
            "task {task} runs this command, which would wait for itself"
        )));
    }
    Ok(())
}
