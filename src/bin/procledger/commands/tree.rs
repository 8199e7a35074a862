//! `tree`: shows the processes of a task, and the evidence that they belong to it.

use std::collections::HashMap;

use clap::Args;
use procledger::{FigureSource, Ledger, Pid, TreeMember, TreeRecord};
use serde::Serialize;

use super::{
    ps::NOTHING_RUNS,
    ps_table::{shown_state, state},
    task_ids,
};
use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::{Paint, Table, cpu_time, escape, shell_words, short_bytes, short_span},
};

/// Show each process of a task, and the evidence that it belongs to the task
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger tree nightly

WHY: identity (the root itself), cgroup, session or process group (created for the root), child of \
PID, token (in its environment), recorded descendant (recorded by an earlier pass); with a `+` if \
a pass has recorded the process as well.

--json: an array of {process, task_id, pid, state, containment, figures (live, recorded), \
obstacle, rss_bytes, cpu_ms, descendants, members, suspects}; members are {process (row, or null \
if no pass has recorded it), pid, parent, evidence, alive, age_ms, rss_bytes, cpu_ms, command}, \
each followed by its children; suspects, which are never ended, {pid, why, command}.")]
pub(crate) struct TreeArgs {
    /// Tasks to show [default: all running tasks]
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show commands in full
    #[arg(long)]
    wide: bool,
}

impl TreeArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let tasks = task_ids(self.tasks)?;
        let ledger = context.read()?;
        let (mut trees, mut exit) = (Vec::new(), Exit::DONE);
        if tasks.is_empty() {
            trees = ledger.trees()?;
            if trees.is_empty() && !self.json {
                output::to_stderr(NOTHING_RUNS);
            }
        }
        for task in tasks {
            let found = ledger.trees_of(task.as_str())?;
            if found.is_empty() {
                output::warn(&missing(&ledger, task.as_str())?);
                exit = Exit::FAILED;
            }
            trees.extend(found);
        }
        let text = if self.json {
            output::json(&trees.iter().map(Line::from).collect::<Vec<_>>())?
        } else {
            trees.iter().map(|tree| text(tree, self.wide)).collect::<Vec<_>>().join("\n")
        };
        output::print(text)?;
        Ok(exit)
    }
}

fn missing(ledger: &Ledger, task: &str) -> Result<String> {
    Ok(if ledger.history(procledger::Query::new().task_id(task).limit(1))?.is_empty() {
        format!("no task {task} is in the ledger: `procledger ps` lists those that run")
    } else {
        format!("task {task} has ended: `procledger ps --all` shows how")
    })
}

fn text(tree: &TreeRecord, wide: bool) -> String {
    let mut table = Table::cut(&["PID", "AGE", "MEMORY", "CPU", "WHY", "PROCESS"], wide);
    table = (0..4).fold(table, Table::right);
    let branch = |member: &TreeMember| Branch { pid: member.pid, parent: member.parent };
    let stems = stems(&tree.members.iter().map(branch).collect::<Vec<_>>());
    for (member, stem) in tree.members.iter().zip(stems) {
        let recorded = !member.is_root && member.process.is_some() && !is_recorded(member);
        table.row([
            member.pid.to_string(),
            short_span(member.age),
            short_bytes(member.rss_bytes),
            cpu_time(member.cpu),
            member.evidence.clone() + if recorded { " +" } else { "" },
            stem + &if member.alive { String::new() } else { "(gone) ".to_owned() }
                + &shell_words(&member.command),
        ]);
    }
    let suspects = tree.suspects.iter().map(|suspect| {
        let command = shell_words(&suspect.command);
        format!("left running: {} {command}: {}\n", suspect.pid, escape(&suspect.why))
    });
    [heading(tree) + "\n", table.text()].into_iter().chain(suspects).collect()
}

fn is_recorded(member: &TreeMember) -> bool {
    member.evidence == "recorded descendant"
}

/// Formats the heading: `nightly: running, 3 processes, 12.5M, 0.31s of CPU, containment session`.
fn heading(tree: &TreeRecord) -> String {
    let task = tree.root.spec.task_id.as_ref().map_or("(no task)", |task| task.as_str());
    let alive = tree.members.iter().filter(|member| member.alive).count();
    let processes = if alive == 1 { "1 process".to_owned() } else { format!("{alive} processes") };
    let figures = format!(
        "{}, {processes}, {}, {} of CPU, containment {}",
        shown_state(tree),
        short_bytes(tree.rss_bytes),
        cpu_time(tree.cpu),
        tree.root.spec.containment,
    );
    let line = Paint::detect().bold(&escape(task)) + ": " + &figures;
    match &tree.obstacle {
        Some(obstacle) => line + "\n  as recorded: " + &escape(obstacle),
        None => line,
    }
}

/// A process in a drawing, and the one below which it is placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch {
    pub(super) pid: Pid,
    pub(super) parent: Option<Pid>,
}

/// Returns the branch lines to draw before each member.
pub(super) fn stems(members: &[Branch]) -> Vec<String> {
    let mut children: HashMap<Option<Pid>, Vec<usize>> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        children.entry(member.parent).or_default().push(index);
    }
    let is_last = |index: usize| {
        children.get(&members[index].parent).and_then(|all| all.last()) == Some(&index)
    };
    let at: HashMap<Pid, usize> =
        members.iter().enumerate().map(|(index, member)| (member.pid, index)).collect();
    let mut stems: Vec<(String, String)> = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let above = member.parent.and_then(|parent| at.get(&parent)).and_then(|&at| stems.get(at));
        let below = above.map_or_else(String::new, |(_, below)| below.clone());
        stems.push(match (member.parent, is_last(index)) {
            (None, _) => (String::new(), String::new()),
            (Some(_), false) => (below.clone() + "├─ ", below + "│  "),
            (Some(_), true) => (below.clone() + "└─ ", below + "   "),
        });
    }
    stems.into_iter().map(|(stem, _)| stem).collect()
}

/// A tree in JSON. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    process: i64,
    task_id: Option<&'a str>,
    pid: u32,
    state: &'static str,
    containment: &'static str,
    figures: FigureSource,
    obstacle: Option<&'a str>,
    rss_bytes: Option<u64>,
    cpu_ms: Option<u128>,
    descendants: u64,
    members: Vec<MemberLine<'a>>,
    suspects: Vec<SuspectLine<'a>>,
}

#[derive(Debug, Serialize)]
struct MemberLine<'a> {
    process: Option<i64>,
    pid: u32,
    parent: Option<u32>,
    evidence: &'a str,
    alive: bool,
    age_ms: u128,
    rss_bytes: Option<u64>,
    cpu_ms: Option<u128>,
    command: &'a [String],
}

#[derive(Debug, Serialize)]
struct SuspectLine<'a> {
    pid: u32,
    why: &'a str,
    command: &'a [String],
}

impl<'a> From<&'a TreeRecord> for Line<'a> {
    fn from(tree: &'a TreeRecord) -> Self {
        let suspects = tree.suspects.iter().map(|suspect| SuspectLine {
            pid: suspect.pid.get(),
            why: &suspect.why,
            command: &suspect.command,
        });
        Self {
            process: tree.root.id.0,
            task_id: tree.root.spec.task_id.as_ref().map(procledger::TaskId::as_str),
            pid: tree.root.pid().get(),
            state: state(tree),
            containment: tree.root.spec.containment.as_str(),
            figures: tree.source,
            obstacle: tree.obstacle.as_deref(),
            rss_bytes: tree.rss_bytes,
            cpu_ms: tree.cpu.map(|cpu| cpu.as_millis()),
            descendants: tree.descendants(),
            members: tree.members.iter().map(MemberLine::from).collect(),
            suspects: suspects.collect(),
        }
    }
}

impl<'a> From<&'a TreeMember> for MemberLine<'a> {
    fn from(member: &'a TreeMember) -> Self {
        Self {
            process: member.process.map(|row| row.0),
            pid: member.pid.get(),
            parent: member.parent.map(Pid::get),
            evidence: &member.evidence,
            alive: member.alive,
            age_ms: member.age.as_millis(),
            rss_bytes: member.rss_bytes,
            cpu_ms: member.cpu.map(|cpu| cpu.as_millis()),
            command: &member.command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_shows_the_hierarchy() {
        let member = |pid: i64, parent: Option<i64>| Branch {
            pid: Pid::new(pid).expect("a pid"),
            parent: parent.and_then(Pid::new),
        };
        let members = [
            member(10, None),
            member(11, Some(10)),
            member(12, Some(11)),
            member(13, Some(12)),
            member(14, Some(11)),
            member(15, Some(10)),
            member(16, Some(15)),
        ];
        assert_eq!(stems(&members), ["", "├─ ", "│  ├─ ", "│  │  └─ ", "│  └─ ", "└─ ", "   └─ "]);
    }
}
