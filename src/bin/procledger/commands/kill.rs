//! `kill`: ends tasks on a person's request, whichever instance owns them.

use std::sync::{
    Arc,
    atomic::{AtomicI32, Ordering},
};

use clap::Args;
use procledger::{Report, TaskId, Tracker};

use super::task_ids;
use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::{ending_line, report_exit, suspect_line},
    signals::{STOP, Signals, die_by},
    threads, units,
};

/// End tasks with all their processes: SIGTERM, grace period, SIGKILL, verified
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger kill nightly build-17

The history records who requested it. Exits with 3 if something survived.

A second `kill` of the same task cuts the grace of the first one short: SIGKILL at once. Ctrl-C, SIGTERM
or SIGHUP within the grace gives the tasks back: they got SIGTERM, and may run on.")]
pub(crate) struct KillArgs {
    /// Tasks to end
    #[arg(value_name = "TASK", required_unless_present = "all", conflicts_with = "all")]
    tasks: Vec<String>,
    /// End every task of the ledger
    #[arg(long)]
    all: bool,
    /// Leave programs with this name and their descendants running; a task's own program is always ended
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
}

impl KillArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tasks = task_ids(self.tasks)?;
        // Before any thread is started, so that none of them takes a signal.
        let signals = Signals::block(&STOP)?;
        let tracker = context.actor().protected_names(&self.protect).open()?;
        let interrupt = Interrupt::hear(signals, &tracker)?;
        let asked_by = context.asked_by("kill");
        let (report, unknown) = if self.all {
            (tracker.kill_all(&asked_by)?, Vec::new())
        } else {
            kill(&tracker, tasks, &asked_by)?
        };
        let lines: String =
            report.endings.iter().map(|ending| ending_line(ending) + "\n").collect();
        output::print(lines)?;
        for suspect in &report.suspects {
            output::to_stderr(&suspect_line(suspect));
        }
        if self.all && report.endings.is_empty() {
            output::to_stderr("nothing runs");
        }
        for task in &unknown {
            output::complain(&format!(
                "no task {task} is running: `procledger ps` lists those that are"
            ));
        }
        tracker.shutdown()?;
        if let Some(signal) = interrupt.signal() {
            let left = report.survived();
            if left > 0 {
                output::complain(&format!(
                    "interrupted: {left} processes were asked to end and may still run: run `procledger kill` again to end them"
                ));
            }
            return Ok(die_by(signal));
        }
        match report_exit(&report) {
            Exit::DONE if !unknown.is_empty() => Ok(Exit::FAILED),
            exit => Ok(exit),
        }
    }
}

/// A signal that asks the command to stop. Within a grace period the claims are released; a tree whose grace period is over is
/// ended first. A second signal ends the command at once.
struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    fn hear(signals: Signals, tracker: &Tracker) -> Result<Self> {
        let heard = Arc::new(AtomicI32::new(0));
        let (theirs, tracker) = (Arc::clone(&heard), tracker.clone());
        threads::start("procledger-signals", move || {
            while let Ok(signal) = signals.next() {
                if theirs.swap(signal, Ordering::AcqRel) != 0 {
                    die_by(signal);
                }
                tracker.interrupt_kills();
            }
        })?;
        Ok(Self(heard))
    }

    fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Acquire)).filter(|&signal| signal != 0)
    }
}

/// Ends the tasks that are live, all together, and returns the ids of those that are not.
fn kill(tracker: &Tracker, tasks: Vec<TaskId>, asked_by: &str) -> Result<(Report, Vec<TaskId>)> {
    let live = tracker.ledger().running()?;
    let (known, mut unknown): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| live.iter().any(|row| row.task.as_ref() == Some(task)));
    if known.is_empty() {
        return Ok((Report::default(), unknown));
    }
    let ids: Vec<&str> = known.iter().map(TaskId::as_str).collect();
    match tracker.kill(&ids, asked_by) {
        Err(error) if error.is_not_found() => {}
        result => return Ok((result?, unknown)),
    }
    // One of them ended since the query: try the others one by one.
    let mut report = Report::default();
    for task in known {
        match tracker.kill(&[task.as_str()], asked_by) {
            Ok(one) => absorb(&mut report, one),
            Err(error) if error.is_not_found() => unknown.push(task),
            Err(error) => report.errors.push(crate::exit::chain(&error)),
        }
    }
    Ok((report, unknown))
}

fn absorb(report: &mut Report, other: Report) {
    report.checked += other.checked;
    report.endings.extend(other.endings);
    report.suspects.extend(other.suspects);
    report.errors.extend(other.errors);
}
