//! `ps`: lists the running tasks, and on request the ended ones.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Duration,
};

use clap::Args;
use procledger::{Ledger, ProcessId, ProcessRecord, Query, State, TaskId, TreeRecord};

use super::{
    ps_json::Line,
    ps_table::{Cpu, history, table, task},
    ps_watch,
};
use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::escape,
    screen::Screen,
    task_pattern, units,
};

/// What `ps`, `tree` and `kill --all` print on stderr for a ledger without running tasks.
pub(super) const NOTHING_RUNS: &str = "no task is running";

/// List the running tasks, each with the memory and CPU time of its whole tree
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(after_help = "\
Example:
  procledger ps --all --json | jq '.[] | select(.exit_code != 0) | .task_id'

MEMORY is the resident memory of the whole tree, with shared pages counted once per process. CPU \
is its user and system time, including that of awaited children. BELOW is the number of \
descendants. These are current values; values that cannot be read here are shown as last recorded, \
with a *.
STATE is shown if a task is not `running`: `gone` if the process has ended and that is not \
recorded yet; `no owner` if its owner is dead, so that `reap` would end it unless it is marked \
survive.
With --watch CPU is in percent of one core since the last refresh; q or Ctrl-C quits.
Colors: on a terminal, unless $NO_COLOR is set, and everywhere if $CLICOLOR_FORCE is set.

--json: an array of objects, always with all of these: id, task_id, pid, state (running, ending, \
survived, ended), owner (program), owner_instance, root (id of the root that it descends from, \
null for a root), origin, containment, command (array), cwd, uid, attributes (object: what it did \
not inherit from its host), started_at, ended_at (RFC 3339, UTC), exit_code, exit_signal, \
core_dumped, end_reason, end_rule, end_evidence (why it was ended, and why it belongs to its \
task), peak_rss_bytes, cpu_ms, survive, grace_ms, end_plan (object: stop_signals, root_first), \
max_runtime_ms, max_rss_bytes, asked_by, last_error, alive, owner_alive, tree_rss_bytes, \
tree_cpu_ms, descendants, figures (live, recorded): of roots that have not ended, what was looked \
up now, otherwise null; alive and owner_alive are null where that cannot be determined.
Recorded descendants have objects of their own. Fields may be added; none is renamed or removed.")]
pub(crate) struct PsArgs {
    /// Tasks to list, or patterns as for `kill` [default: all]
    #[arg(value_name = "TASK", conflicts_with = "watch")]
    tasks: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Include ended processes, newest first
    #[arg(long)]
    all: bool,
    /// With --all, show at most N ended processes
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "all",
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show commands in full
    #[arg(long)]
    wide: bool,
    /// Refresh continuously, like top(1)
    #[arg(long, conflicts_with_all = ["json", "all"])]
    watch: bool,
    /// With --watch, time between two refreshes
    #[arg(long, value_name = "D", default_value = "2s", requires = "watch",
        value_parser = units::interval)]
    interval: Duration,
}

impl PsArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        if self.watch {
            Screen::check()?;
            return ps_watch::watch(context, self.interval, self.wide);
        }
        let ledger = context.read()?;
        let mut ended = if self.all { self.ended(&ledger)? } else { Vec::new() };
        let mut trees = ledger.trees()?;
        let mut rows = ledger.processes()?;
        if !self.tasks.is_empty() {
            let ids = rows.iter().chain(&ended).filter_map(|row| row.spec.task_id.clone());
            let selected = SelectedTasks::new(&self.tasks, &ids.collect::<Vec<_>>());
            ended.retain(|row| selected.contains(row));
            rows.retain(|row| selected.contains(row));
            trees.retain(|tree| selected.contains(&tree.root));
        }
        if rows.is_empty() && ended.is_empty() && !self.json {
            output::to_stderr(&escape(&self.nothing_found()));
        }
        let text = if self.json {
            json(rows, &trees, &ended)?
        } else {
            let lines = if self.all {
                history(&trees, &ended, self.wide)
            } else {
                table(&trees, self.wide, Cpu::Time)
            };
            print_obstacles(&trees);
            print_survivors(&trees);
            lines.into_iter().map(|line| line + "\n").collect()
        };
        output::print(text)?;
        Ok(Exit::DONE)
    }

    /// Returns the line on stderr for an empty table, whether or not a terminal shows it: in a pipe
    /// the table alone could also be that of a wrong ledger.
    fn nothing_found(&self) -> String {
        let names = self.tasks.join(" or ");
        match (self.all, names.is_empty()) {
            (false, true) => format!("{NOTHING_RUNS}: --all shows what has ended"),
            (false, false) => format!("no task {names} runs: --all shows what has ended"),
            (true, true) => "no process is recorded".to_owned(),
            (true, false) => format!("no task {names}"),
        }
    }

    /// Returns the newest ended processes: of each task that is named, and of all tasks if there
    /// are patterns.
    fn ended(&self, ledger: &Ledger) -> Result<Vec<ProcessRecord>> {
        if self.tasks.is_empty() || self.tasks.iter().any(|name| task_pattern::is_pattern(name)) {
            return ended(ledger, Query::new(), self.limit);
        }
        let mut rows = Vec::new();
        for task in &self.tasks {
            let query = Query::new().task_id(task);
            rows.extend(ended(ledger, query, self.limit)?);
        }
        newest_first(&mut rows);
        rows.dedup_by_key(|row| row.id);
        Ok(rows)
    }
}

/// The tasks that were named.
struct SelectedTasks(HashSet<String>);

impl SelectedTasks {
    fn new(names: &[String], ids: &[TaskId]) -> Self {
        let ids: Vec<&TaskId> = ids.iter().collect();
        let found = names.iter().flat_map(|name| task_pattern::matching(name, &ids));
        Self(found.map(str::to_owned).collect())
    }

    fn contains(&self, row: &ProcessRecord) -> bool {
        row.spec.task_id.as_ref().is_some_and(|task| self.0.contains(task.as_str()))
    }
}

/// Returns at most `limit` ended processes, newest end first.
fn ended(ledger: &Ledger, query: Query, limit: u32) -> Result<Vec<ProcessRecord>> {
    let mut ended = ledger.history(query.limit(limit))?;
    ended.retain(|row| row.life.state() == State::Ended);
    newest_first(&mut ended);
    if u32::try_from(ended.len()) == Ok(limit) {
        output::to_stderr(&format!(
            "showing the newest {limit} ended processes: --limit N shows more"
        ));
    }
    Ok(ended)
}

fn newest_first(rows: &mut [ProcessRecord]) {
    rows.sort_by_key(|row| Reverse((row.life.end().map(|end| end.at), row.id)));
}

/// Every row, including recorded descendants; roots have the figures of their trees.
fn json(
    mut rows: Vec<ProcessRecord>,
    trees: &[TreeRecord],
    ended: &[ProcessRecord],
) -> Result<String> {
    rows.sort_by_key(|row| (row.spec.started_at, row.id));
    let tree_of: HashMap<ProcessId, &TreeRecord> =
        trees.iter().map(|tree| (tree.root.id, tree)).collect();
    let running = rows.iter().map(|row| Line::new(row, tree_of.get(&row.id).copied()));
    let ended = ended.iter().map(|row| Line::new(row, None));
    output::json(&running.chain(ended).collect::<Vec<_>>())
}

/// Prints each reason why figures are not current, once.
fn print_obstacles(trees: &[TreeRecord]) {
    let mut obstacles: Vec<&str> =
        trees.iter().filter_map(|tree| tree.obstacle.as_deref()).collect();
    obstacles.sort_unstable();
    obstacles.dedup();
    for obstacle in obstacles {
        output::to_stderr(&escape(&format!("* as recorded: {obstacle}")));
    }
}

/// Prints for each root that could not be ended the reason of the last attempt.
fn print_survivors(trees: &[TreeRecord]) {
    for root in
        trees.iter().map(|tree| &tree.root).filter(|root| root.life.state() == State::Survived)
    {
        let why = root.last_error.as_deref().unwrap_or("it is still alive");
        let pid = root.pid();
        output::to_stderr(&escape(&format!("{} ({pid}) could not be ended: {why}", task(root))));
    }
}
