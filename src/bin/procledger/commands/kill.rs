//! `kill`: ends tasks on a person's request, whichever instance owns them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use clap::Args;
use procledger::{EndPlan, Ending, ProcessRecord, Report, TaskId, Tracker};

use super::{ps::NOTHING_RUNS, task_ids};
use crate::{
    ancestors::ancestors,
    context::Context,
    exit::{Exit, Result, chain},
    inherited_fds::demand_descriptors,
    output,
    render::{ending_line_after, report_exit, suspect_line},
    signals::{STOP, Signals, die_by},
    task_pattern, threads, units,
};

/// End tasks with all their processes: SIGTERM, grace period, SIGKILL, verified
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(after_help = "\
Examples:
  procledger kill nightly build-17
  procledger kill 'agent-7/*' --grace 20s
  procledger kill web --signal INT --root-first

A name with `*` or `?` is a pattern if no running task has exactly that name: `*` stands for any \
text, `?` for one character. Quote it, so that the shell does not expand it. A name or pattern \
without a running task is an error; the other tasks are ended nevertheless.

The history records who requested it. Exits with 3 if something survived or could not be examined, \
or if the task itself runs this command: this process and its ancestors are left running.

A second `kill` of the same task ends the grace period of the first one: SIGKILL at once. Ctrl-C, \
SIGTERM or SIGHUP within the grace period releases the tasks: they have received SIGTERM, and may \
run on.
--json: the same as `health --json`.")]
pub(crate) struct KillArgs {
    /// Tasks to end, or patterns
    #[arg(value_name = "TASK", required_unless_present = "all", conflicts_with = "all")]
    tasks: Vec<String>,
    /// End every task of the ledger
    #[arg(long)]
    all: bool,
    /// Time between the first signal and SIGKILL [default: that of each task]; stop signals of a
    /// task that would come later are omitted
    #[arg(long, value_name = "D", value_parser = units::duration)]
    grace: Option<Duration>,
    /// Signal before SIGKILL, by name or number [default: those of each task, usually TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = units::signal)]
    signal: Option<i32>,
    /// Signal the program of each task first, and its descendants once it has ended or its grace
    /// period is over
    #[arg(long)]
    root_first: bool,
    /// SIGKILL at once: the same as --grace 0s
    #[arg(long, conflicts_with_all = ["grace", "signal", "root_first"])]
    now: bool,
    /// Leave programs with this name and their descendants running; a task's own program is always
    /// ended
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl KillArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tasks = task_ids(self.tasks.clone())?;
        demand_descriptors()?;
        // Before any thread is started, so that none of them takes a signal.
        let signals = Signals::block(&STOP)?;
        let tracker = context.actor().protected_names(&self.protect).open()?;
        let interrupt = Interrupt::watch(signals, &tracker)?;
        let asked_by = context.asked_by("kill");
        let signals = stop_signals(&tracker)?;
        let (mut report, unknown) = if self.all {
            (tracker.kill_all_with(&asked_by, &self.plan())?, Vec::new())
        } else {
            kill(&tracker, tasks, &asked_by, &self.plan())?
        };
        let spared = take_own_tasks(&mut report);
        self.print(&report, &signals)?;
        for task in &unknown {
            let what = if task_pattern::is_pattern(task.as_str()) {
                format!("no running task matches {task}")
            } else {
                format!("no task {task} is running")
            };
            output::warn(&format!("{what}: `procledger ps` lists those that are"));
        }
        for (task, pid) in &spared {
            output::warn(&format!(
                "task {task} runs this command (below its process {pid}), which was left running with its \
                 ancestors: end the task from outside of it"
            ));
        }
        tracker.shutdown()?;
        if let Some(signal) = interrupt.signal() {
            let left = report.survived();
            if left > 0 {
                output::warn(&format!(
                    "interrupted: {left} processes were asked to end and may still run: run `procledger kill` again to end them"
                ));
            }
            return Ok(die_by(signal));
        }
        match report_exit(&report) {
            Exit::DONE | Exit::FAILED if !spared.is_empty() => Ok(Exit::SURVIVED),
            Exit::DONE if !unknown.is_empty() => Ok(Exit::FAILED),
            exit => Ok(exit),
        }
    }

    fn plan(&self) -> EndPlan {
        let mut plan = EndPlan::new();
        if let Some(signal) = self.signal {
            plan = plan.signal(signal);
        }
        if self.root_first {
            plan = plan.root_first(true);
        }
        match if self.now { Some(Duration::ZERO) } else { self.grace } {
            Some(grace) => plan.grace(grace),
            None => plan,
        }
    }

    fn print(&self, report: &Report, signals: &HashMap<TaskId, String>) -> Result<()> {
        if self.json {
            return output::print(output::json(report)?).map(drop);
        }
        let line = |ending: &Ending| {
            let own = ending.task_id.as_ref().and_then(|task| signals.get(task));
            let asked = self.signal.map(units::signal_name);
            let asked = asked.or_else(|| own.cloned()).unwrap_or_else(|| "TERM".to_owned());
            ending_line_after(ending, &asked) + "\n"
        };
        output::print(report.endings.iter().map(line).collect::<String>())?;
        for suspect in &report.suspects {
            output::to_stderr(&suspect_line(suspect));
        }
        if self.all && report.checked == 0 {
            output::to_stderr(NOTHING_RUNS);
        }
        Ok(())
    }
}

/// Returns the stop signals of each live task that has some of its own, as text.
fn stop_signals(tracker: &Tracker) -> Result<HashMap<TaskId, String>> {
    let mut signals = HashMap::new();
    for ProcessRecord { spec, .. } in tracker.ledger().processes()? {
        let names = spec.end_plan.get_stop_signals().map(|(signal, _)| units::signal_name(signal));
        let names: Vec<String> = names.collect();
        if let Some(task) = spec.task_id.filter(|_| !names.is_empty()) {
            signals.insert(task, names.join(" or "));
        }
    }
    Ok(signals)
}

/// Removes from the report the tasks that this command runs in, and returns them, each with its
/// root: an ancestor of this process, which was left running.
fn take_own_tasks(report: &mut Report) -> Vec<(String, u32)> {
    let ancestors = ancestors();
    let is_own = |pid: u32| ancestors.iter().any(|ancestor| ancestor.pid == pid);
    let own = report.suspects.extract_if(.., |suspect| is_own(suspect.pid.get()));
    let name = |task: Option<TaskId>| task.map_or_else(|| "-".to_owned(), |task| task.to_string());
    own.map(|suspect| (name(suspect.task_id), suspect.pid.get())).collect()
}

/// A signal that asks the command to stop. Within a grace period the claims are released; a tree
/// whose grace period is over is ended first. A second signal ends the command at once.
struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    fn watch(signals: Signals, tracker: &Tracker) -> Result<Self> {
        let received = Arc::new(AtomicI32::new(0));
        let (theirs, tracker) = (Arc::clone(&received), tracker.clone());
        threads::start("procledger-signals", move || {
            while let Ok(signal) = signals.next() {
                if theirs.swap(signal, Ordering::AcqRel) != 0 {
                    die_by(signal);
                }
                tracker.interrupt_kills();
            }
        })?;
        Ok(Self(received))
    }

    fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Acquire)).filter(|&signal| signal != 0)
    }
}

/// Ends the tasks that are live, all together, and returns the names and patterns that none of them
/// has.
fn kill(
    tracker: &Tracker,
    tasks: Vec<TaskId>,
    asked_by: &str,
    plan: &EndPlan,
) -> Result<(Report, Vec<TaskId>)> {
    let live = tracker.ledger().processes()?;
    let live: Vec<&TaskId> = live.iter().filter_map(|row| row.spec.task_id.as_ref()).collect();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for task in tasks {
        let before = known.len();
        known.extend(task_pattern::matching(task.as_str(), &live));
        if known.len() == before {
            unknown.push(task);
        }
    }
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        return Ok((Report::default(), unknown));
    }
    match tracker.kill_with(&known, asked_by, plan) {
        Err(error) if error.is_not_found() => {}
        result => return Ok((result?, unknown)),
    }
    // One of them ended since the query: try the others one by one.
    let mut report = Report::default();
    for task in known {
        match tracker.kill_with(&[task], asked_by, plan) {
            Ok(one) => report.absorb(one),
            Err(error) if error.is_not_found() => unknown.extend(TaskId::new(task).ok()),
            Err(error) => report.errors.push(chain(&error)),
        }
    }
    Ok((report, unknown))
}
