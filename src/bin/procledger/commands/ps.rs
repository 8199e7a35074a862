//! `ps`: what runs, and on request what ran.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use clap::Args;
use procledger::{FigureSource, Ledger, Millis, ProcessId, ProcessRecord, State, TreeRecord};

use super::{ps_json::Line, ps_watch};
use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::{Paint, Table, cpu_time, escape, shell_words, short_bytes, short_span},
    terminal::Screen,
    units,
};

/// List the running tasks, each with the memory and CPU time of its whole tree
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(after_help = "\
Example:
  procledger ps --all --json | jq '.[] | select(.exit_code != 0) | .task_id'

MEMORY is the resident memory of the whole tree, with shared pages counted once per process; CPU
its user and system time, including that of awaited children; BELOW the number of descendants.
These are current values. Values that cannot be read here are shown as last recorded, with a *.
With --watch CPU is in percent of one core since the last refresh; q or Ctrl-C quits.
Colors: on a terminal, unless $NO_COLOR is set, and everywhere if $CLICOLOR_FORCE is set.

--json: an array of objects, always with all of these:
  id, task_id, pid, state (running, ending, survived, ended), owner (program), owner_instance,
  root (id of the root that it descends from, null for a root), origin, containment, command
  (array), cwd, uid, started_at, ended_at (RFC 3339, UTC), exit_code, exit_signal, end_reason,
  end_rule, end_evidence (why it was ended, and why it belongs to its task), peak_rss_bytes, cpu_ms, survive, grace_ms, max_runtime_ms, max_rss_bytes, asked_by, last_error,
  alive, tree_rss_bytes, tree_cpu_ms, descendants, figures (live, recorded): of roots that have
  not ended, what was looked up now, otherwise null; alive is null where it cannot be seen
Recorded descendants have objects of their own. Fields may be added, none is renamed or removed.")]
pub(crate) struct PsArgs {
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
        let ended = if self.all { ended(&ledger, self.limit)? } else { Vec::new() };
        let trees = ledger.trees()?;
        let text = if self.json {
            json(&ledger, &trees, &ended)?
        } else {
            let lines = if self.all {
                history(&trees, &ended, self.wide)
            } else {
                table(&trees, self.wide, Cpu::Time)
            };
            tell_obstacles(&trees);
            tell_survivors(&trees);
            lines.into_iter().map(|line| line + "\n").collect()
        };
        output::print(text)?;
        Ok(Exit::DONE)
    }
}

/// Newest end first, at most `limit`.
fn ended(ledger: &Ledger, limit: u32) -> Result<Vec<ProcessRecord>> {
    let mut ended = ledger.history(None, None, limit)?;
    ended.retain(|row| row.state == State::Ended);
    ended.sort_by_key(|row| Reverse((row.ended_at, row.id)));
    if u32::try_from(ended.len()) == Ok(limit) {
        output::to_stderr(&format!("the newest {limit} that ended: --limit N shows more"));
    }
    Ok(ended)
}

/// Every row, recorded descendants too; the roots among them with their trees' figures.
fn json(ledger: &Ledger, trees: &[TreeRecord], ended: &[ProcessRecord]) -> Result<String> {
    let mut rows = ledger.running()?;
    rows.sort_by_key(|row| (row.started_at, row.id));
    let tree_of: HashMap<ProcessId, &TreeRecord> =
        trees.iter().map(|tree| (tree.root.id, tree)).collect();
    let running = rows.iter().map(|row| Line::new(row, tree_of.get(&row.id).copied()));
    let ended = ended.iter().map(|row| Line::new(row, None));
    output::json(&running.chain(ended).collect::<Vec<_>>())
}

/// Says once for each reason why figures are not of now.
fn tell_obstacles(trees: &[TreeRecord]) {
    let mut told: Vec<&str> = trees.iter().filter_map(|tree| tree.obstacle.as_deref()).collect();
    told.sort_unstable();
    told.dedup();
    for obstacle in told {
        output::to_stderr(&escape(&format!("* as recorded: {obstacle}")));
    }
}

/// Says of each root that could not be ended why, as of the last attempt.
fn tell_survivors(trees: &[TreeRecord]) {
    for root in trees.iter().map(|tree| &tree.root).filter(|root| root.state == State::Survived) {
        let why = root.last_error.as_deref().unwrap_or("it lived on");
        let pid = root.identity.pid;
        output::to_stderr(&escape(&format!("{} ({pid}) could not be ended: {why}", task(root))));
    }
}

/// What the column `CPU` shows.
#[derive(Clone, Copy)]
pub(super) enum Cpu<'a> {
    /// All that was used so far.
    Time,
    /// What a look shows of each tree.
    Share(&'a dyn Fn(&TreeRecord) -> String),
}

/// The trees, a line each, the header first. The state is shown where there is something to tell.
pub(super) fn table(trees: &[TreeRecord], wide: bool, cpu: Cpu<'_>) -> Vec<String> {
    let states = trees.iter().any(|tree| state(tree) != State::Running.as_str());
    let mut header = vec!["TASK", "PID", "AGE", "MEMORY", "CPU", "BELOW", "CONTAINED", "COMMAND"];
    if states {
        header.insert(2, "STATE");
    }
    let mut table = Table::cut(&header, wide).right(1);
    for column in header.len() - 6..header.len() - 2 {
        table = table.right(column);
    }
    let now = Millis::now();
    for tree in trees {
        let root = &tree.root;
        let cpu = match cpu {
            Cpu::Time => cpu_time(tree.cpu),
            Cpu::Share(share) => share(tree),
        };
        let mut cells = vec![
            task(root),
            root.identity.pid.to_string(),
            short_span(now.since(root.started_at)),
            marked(tree, short_bytes(tree.rss_bytes)),
            marked(tree, cpu),
            marked(tree, tree.descendants().to_string()),
            root.containment.to_string(),
            shell_words(&root.command),
        ];
        if states {
            cells.insert(2, state(tree).to_owned());
        }
        table.row(cells);
    }
    painted(table, trees.iter().map(|tree| tree.root.state))
}

/// The trees and then what has ended, a line each, within 80 columns.
fn history(trees: &[TreeRecord], ended: &[ProcessRecord], wide: bool) -> Vec<String> {
    let header = ["TASK", "PID", "STATE", "EXIT", "AGE", "MEMORY", "CPU", "COMMAND"];
    let mut table = (4..7).fold(Table::cut(&header, wide).right(1), Table::right);
    let now = Millis::now();
    for tree in trees {
        let figures = [marked(tree, short_bytes(tree.rss_bytes)), marked(tree, cpu_time(tree.cpu))];
        table.row(history_row(&tree.root, state(tree), now, figures));
    }
    for row in ended {
        let how = row.end_reason.map_or("ended", procledger::EndReason::as_str);
        let figures = [short_bytes(row.peak_rss), cpu_time(row.cpu)];
        table.row(history_row(row, how, now, figures));
    }
    let states = trees.iter().map(|tree| tree.root.state);
    painted(table, states.chain(ended.iter().map(|row| row.state)))
}

fn history_row(
    row: &ProcessRecord,
    state: &str,
    now: Millis,
    [memory, cpu]: [String; 2],
) -> Vec<String> {
    vec![
        task(row),
        row.identity.pid.to_string(),
        state.to_owned(),
        row.status.map_or_else(|| "-".to_owned(), exit),
        short_span(row.ended_at.unwrap_or(now).since(row.started_at)),
        memory,
        cpu,
        shell_words(&row.command),
    ]
}

/// `3`, `TERM`; `?` where nobody saw it.
fn exit(status: procledger::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => nix::sys::signal::Signal::try_from(signal).map_or_else(
            |_| format!("sig{signal}"),
            |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
        ),
        (None, None) => "?".to_owned(),
    }
}

fn task(row: &ProcessRecord) -> String {
    row.task.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// As in the ledger, but `gone` where the process was looked for and is not there: nobody has recorded its end yet.
pub(super) fn state(tree: &TreeRecord) -> &'static str {
    let alive = tree.members.first().is_none_or(|root| root.alive);
    if alive { tree.root.state.as_str() } else { "gone" }
}

fn marked(tree: &TreeRecord, figure: String) -> String {
    if tree.source == FigureSource::Recorded { figure + "*" } else { figure }
}

/// A header that stands out, and what survived in red.
fn painted(table: Table, states: impl Iterator<Item = State>) -> Vec<String> {
    let paint = Paint::detect();
    let mut lines = table.lines().into_iter();
    let header = lines.next().map(|line| paint.bold(&line));
    let rows = lines.zip(states).map(|(line, state)| match state {
        State::Survived => paint.bad(&line),
        State::Ending | State::Ended => paint.faint(&line),
        State::Running => line,
    });
    header.into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use procledger::{ExitStatus, TreeMember};

    use super::*;
    use crate::commands::ps_json::tests::row;

    fn tree(root: ProcessRecord, alive: bool) -> TreeRecord {
        let member = TreeMember {
            process: Some(root.id),
            pid: root.identity.pid,
            parent: None,
            evidence: "identity".into(),
            command: root.command.clone(),
            alive,
            is_root: true,
            age: Duration::ZERO,
            rss_bytes: None,
            cpu: None,
        };
        TreeRecord {
            root,
            source: FigureSource::Live,
            obstacle: None,
            members: vec![member],
            suspects: Vec::new(),
            rss_bytes: Some(3 << 20),
            cpu: Some(Duration::from_millis(1250)),
        }
    }

    #[test]
    fn a_row_of_the_history_is_one_harmless_line() {
        let lines = history(&[], &[row()], true);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for part in ["evil\\x0a\\u{9b}task", " exited ", " 1 ", "4s", "1.0M", "sh -c 'exit 1'"] {
            assert!(lines[1].contains(part), "{part} in {lines:?}");
        }
    }

    #[test]
    fn the_state_is_shown_where_there_is_something_to_tell() {
        let running = || ProcessRecord { state: State::Running, ended_at: None, ..row() };
        let plain = table(&[tree(running(), true)], true, Cpu::Time);
        assert!(!plain[0].contains("STATE") && plain[1].contains(" 3.0M  1.25s "), "{plain:?}");
        let survived = ProcessRecord { state: State::Survived, ..running() };
        let told = table(&[tree(survived, true), tree(running(), false)], true, Cpu::Time);
        assert!(told[0].contains("STATE") && told[1].contains(" survived "), "{told:?}");
        assert!(told[2].contains(" gone "), "{told:?}");
    }

    #[test]
    fn what_was_recorded_is_marked() {
        let recorded = TreeRecord { source: FigureSource::Recorded, ..tree(row(), true) };
        let lines = table(&[recorded], true, Cpu::Share(&|_| "-".to_owned()));
        assert!(lines[1].contains("3.0M*") && lines[1].contains("0*"), "{lines:?}");
    }

    #[test]
    fn an_end_is_told_in_a_word() {
        for (status, told) in [
            (ExitStatus::Exited(3), "3"),
            (ExitStatus::Signaled(15), "TERM"),
            (ExitStatus::Signaled(40), "sig40"),
            (ExitStatus::Unobserved, "?"),
        ] {
            assert_eq!(exit(status), told);
        }
    }
}
