//! `run`: on whose behalf it runs its task, and what it does about an earlier run of the same task.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use procledger::{Caller, Identity, ProcessRecord, Report, State, TaskId, Tracker};

use crate::{
    ancestors::{Ancestor, ancestors},
    context::Context,
    exit::{Exit, Failure, Result},
    output,
};

/// `--owner` for all programs below, and thus also for a `run` that one of them starts.
const OWNER_VARIABLE: &str = "PROCLEDGER_OWNER";
/// Pause between two queries for the rows of an earlier run.
const PAUSE: Duration = Duration::from_millis(20);
/// Time within which an earlier run begins to end its tree after the death of its caller.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);
/// Limit for an end, plus the grace.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// What to do if the task runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IfRunning {
    Fail,
    Wait,
    Replace,
}

#[derive(Debug, Args)]
pub(crate) struct CallerArgs {
    /// End the task when the process that started this command ends
    #[arg(long, conflicts_with_all = ["owner", "survive"])]
    die_with_parent: bool,
    /// End the task when this process ends; add its start tick to exclude PID reuse
    #[arg(long, value_name = "PID[:TICK]", value_parser = pid, conflicts_with = "survive")]
    owner: Option<(u32, Option<u64>)>,
    /// If the task already runs: fail with 75, wait for its end, or replace it (kill it) [default:
    /// fail, or wait if its owner has ended]
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    if_running: Option<IfRunning>,
}

fn pid(text: &str) -> Result<(u32, Option<u64>), String> {
    let (pid, tick) = match text.split_once(':') {
        Some((pid, tick)) => (pid, Some(tick)),
        None => (text, None),
    };
    let refused = || "write a PID, or PID:TICK with field 22 of /proc/PID/stat".to_owned();
    let tick = tick.map(|tick| tick.parse().map_err(|_| refused())).transpose()?;
    Ok((pid.parse().ok().filter(|&pid| pid > 0).ok_or_else(refused)?, tick))
}

fn pin(pid: u32, tick: Option<u64>) -> Result<Caller, String> {
    if pid == std::process::id() {
        return Err(format!(
            "process {pid} is this command itself, which a shell has executed in its own place (`sh -c` does that with its last \
             command): use --die-with-parent, or add another command, such as `exit $?`"
        ));
    }
    Caller::pin(pid, tick).map_err(|error| error.to_string())
}

impl CallerArgs {
    /// Pins the process on whose behalf the task runs, if there is one. A task that survives its
    /// owners has none, whatever the environment says.
    pub(crate) fn pin(&self, survive: bool) -> Result<Option<Caller>> {
        let refused = |what: &str, error: &dyn std::fmt::Display| {
            Failure::usage(format!("{what}: {error}; the program was not started"))
        };
        if self.die_with_parent {
            let parent = Caller::parent();
            return parent.map(Some).map_err(|error| refused("--die-with-parent", &error));
        }
        if let Some((pid, tick)) = self.owner {
            return pin(pid, tick).map(Some).map_err(|error| refused("--owner", &error));
        }
        let named = env::var_os(OWNER_VARIABLE).filter(|owner| !owner.is_empty() && !survive);
        let Some(named) = named else { return Ok(None) };
        let what = format!("${OWNER_VARIABLE}");
        let (pid, tick) = pid(&named.to_string_lossy()).map_err(|error| refused(&what, &error))?;
        pin(pid, tick).map(Some).map_err(|error| refused(&what, &error))
    }

    /// Acts on the run that prevents the task from starting, for the `first` time or again; returns
    /// whether to try again.
    pub(crate) fn make_way(
        &self,
        context: &Context,
        tracker: &Tracker,
        task: &TaskId,
        first: bool,
    ) -> Result<bool> {
        if matches!(self.if_running, Some(IfRunning::Wait | IfRunning::Replace)) {
            check_not_own(tracker, task)?;
        }
        match self.if_running {
            Some(IfRunning::Fail) => return Ok(false),
            Some(IfRunning::Replace) => {
                if first {
                    output::warn(&format!("task {task} already runs: ending it first"));
                }
                replace(context, tracker, task)?;
            }
            Some(IfRunning::Wait) => {
                // The caller of that run may end meanwhile, and the run may be stopped.
                while tracker.orphaned(task.as_str())?.is_none() {
                    if running(tracker, task)?.is_none() {
                        return Ok(true);
                    }
                    thread::sleep(PAUSE);
                }
                await_end(tracker, task)?;
            }
            None if tracker.orphaned(task.as_str())?.is_some() => await_end(tracker, task)?,
            // It may have ended since.
            None => return Ok(running(tracker, task)?.is_none()),
        }
        Ok(true)
    }
}

/// Ends an earlier run, unless another instance is already ending it, since a second kill would cut
/// its grace short: of several callers that replace the same run, one ends it and the others wait.
fn replace(context: &Context, tracker: &Tracker, task: &TaskId) -> Result<()> {
    let by = context.asked_by("run");
    let ended = |report: procledger::Result<Report>| match report {
        Err(error) if !error.is_not_found() => Err(error.into()),
        Ok(report) => check_ended(&report, task),
        Err(_) => Ok(()),
    };
    ended(tracker.kill_unless_ending(task.as_str(), &by))?;
    let began = Instant::now();
    while let Some(row) = running(tracker, task)?
        && row.life.state() == State::Ending
    {
        if began.elapsed() > ENDS_WITHIN + row.spec.asking_time() {
            return ended(tracker.kill(&[task.as_str()], &by));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Refuses a task that runs this command: it can be neither ended nor waited for from within.
fn check_not_own(tracker: &Tracker, task: &TaskId) -> Result<()> {
    let ancestors = ancestors();
    let is_own = |row: &ProcessRecord| {
        let Identity { pid, start_tick, .. } = row.spec.identity;
        ancestors.contains(&Ancestor { pid: pid.get(), start_tick })
    };
    let live = tracker.ledger().processes()?;
    let mut of_task = live.iter().filter(|row| row.spec.task_id.as_ref() == Some(task));
    of_task.find(|row| is_own(row)).map_or(Ok(()), |row| {
        let why = format!(
            "task {task} runs this command (below its process {}): start it again from outside of it",
            row.pid()
        );
        Err(Failure::new(why).with_exit(Exit::ALREADY_RUNNING))
    })
}

/// Fails if an earlier run may still be there: starting the task would be refused again and again.
fn check_ended(report: &Report, task: &TaskId) -> Result<()> {
    let why = if report.survived() > 0 {
        format!("{} processes of task {task} could not be ended", report.survived())
    } else if report.unverified > 0 {
        let why = report.suspects.first().map(|it| format!(" ({})", it.why)).unwrap_or_default();
        format!("it is unknown whether task {task} has ended{why}: end it first")
    } else {
        return Ok(());
    };
    Err(Failure::new(why).with_exit(Exit::ALREADY_RUNNING))
}

/// Returns the oldest live row of the task.
fn running(tracker: &Tracker, task: &TaskId) -> Result<Option<ProcessRecord>> {
    let live = tracker.ledger().processes()?;
    Ok(live.into_iter().find(|row| row.spec.task_id.as_ref() == Some(task)))
}

/// Waits until a run whose caller has ended has ended its tree. If it does not do so, for example
/// because it is stopped, its tree is taken over and ended.
fn await_end(tracker: &Tracker, task: &TaskId) -> Result<()> {
    let began = Instant::now();
    loop {
        let Some(row) = running(tracker, task)? else { return Ok(()) };
        let limit = match row.life.state() {
            State::Ending => ENDS_WITHIN + row.spec.asking_time(),
            _ => BEGINS_WITHIN,
        };
        if began.elapsed() > limit {
            break;
        }
        thread::sleep(PAUSE);
    }
    match tracker.end_orphaned(task.as_str()) {
        Ok(report) => check_ended(&report, task),
        // It has ended at this very moment.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
