//! `report`: lists leaks.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use procledger::{
    LeakGroup, LeakGrouping, LeakRecord, LeakReport, Ledger, TaskId, TreeRecord,
    paths::refuse_as_output,
};

use super::{
    ps_table::{NO_OWNER, shown_state},
    report_lines::{GroupLine, LeakLine},
    report_task::{groups, leaks_of, report, unverified},
};
use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    html, output,
    render::{
        Table, bytes, csv, escape, leak_outcome, shell_words, short_bytes, short_span, since, span,
    },
    units,
};

/// List leaks: processes that outlived their owner, the rule and evidence, and how each was ended
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger report --since 7days --by task
  procledger report --since 30days --format html -o leaks.html
  procledger report --task 'agent-7/*'

Process-hours are counted from the start of a process until it was found; memory is its resident \
memory at that time.
--by program uses the last part of the command's first word. Days and hours are UTC.
--format html: one self-contained file with charts and tables, which loads nothing else; --by \
selects the first table.
--format json: an array of objects; without --by {process, task_id, pid, kind, rule, evidence, \
found_at, age_ms, rss_bytes, outcome, died_after_ms, command, rule_key, evidence_key, stop_signal}, \
with --by {key, leaks, orphans, strays, unregistered, survived, process_hours, rss_bytes, last_found_at}; \
times are RFC 3339.
--format csv: the same columns (RFC 4180). Control characters are escaped, otherwise fields are \
raw data: import them as text, because a spreadsheet takes a leading `=` for a formula.
On stderr: how many of these trees were contained by a session only, so that a daemon may have \
escaped unnoticed; and how many tasks run without an owner, and are leaks once `reap` has ended them.")]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    window: Window,
    /// Include only leaks of this task, or of tasks that match this pattern, as for `kill`
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Print sums instead of a list
    #[arg(long)]
    by: Option<Grouping>,
    #[arg(long, default_value = "table")]
    format: ReportFormat,
    /// Print JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write to this file instead of stdout (replaced atomically)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Which leaks a report includes.
#[derive(Debug, Args)]
pub(super) struct Window {
    /// Include only leaks that were found within this time, or since this date (2026-11-01, UTC)
    #[arg(long, value_name = "D", value_parser = units::age)]
    since: Option<Duration>,
}

impl Window {
    /// Returns its length, if it has a start.
    pub(super) fn length(&self) -> Option<Duration> {
        self.since
    }

    /// Returns its start; one that is further back than the clock reaches includes everything.
    pub(super) fn start(&self) -> Option<SystemTime> {
        self.since.and_then(|span| SystemTime::now().checked_sub(span))
    }
}

/// The key of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Grouping {
    Hour,
    Day,
    Task,
    Rule,
    Program,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    Csv,
    Html,
}

impl ReportArgs {
    pub(crate) fn run(mut self, context: &Context) -> Result<Exit> {
        if self.json {
            self.format = ReportFormat::Json;
        }
        let since = self.window.start();
        let ledger = context.read()?;
        let (text, unverified) = match &self.task {
            Some(task) => self.of_task(&ledger, since, task)?,
            None => self.of_all(&ledger, since)?,
        };
        match &self.output {
            None => output::print(text).map(drop)?,
            Some(file) => {
                refuse_as_output(&context.ledger, file, "the report")?;
                output::to_file(file, text.as_bytes())?;
            }
        }
        warn_unverified(unverified);
        warn_unreaped(&ledger)?;
        Ok(Exit::DONE)
    }

    /// Returns the text, and how many trees may have leaked unseen.
    fn of_all(&self, ledger: &Ledger, since: Option<SystemTime>) -> Result<(String, u64)> {
        Ok(match (self.format, self.by) {
            (ReportFormat::Html, by) => {
                let report = ledger.leak_report(since, html::LEAKS_SHOWN)?;
                (html(ledger, &report, since, by)?, ledger.unverified_trees(since)?)
            }
            (format, Some(by)) => {
                let groups = ledger.leak_groups(since, by.into())?;
                (
                    sums(&groups, format, by, || self.nothing(ledger))?,
                    ledger.unverified_trees(since)?,
                )
            }
            (format, None) => {
                let leaks = ledger.leaks(procledger::Query::new().since(since))?;
                (list(&leaks, format, || self.nothing(ledger))?, unverified(&leaks))
            }
        })
    }

    /// Does the same for the leaks of some tasks.
    fn of_task(
        &self,
        ledger: &Ledger,
        since: Option<SystemTime>,
        task: &str,
    ) -> Result<(String, u64)> {
        let task = TaskId::new(task).map_err(|error| Failure::usage(error.to_string()))?;
        let leaks = leaks_of(ledger, since, task.as_str())?;
        let unverified = unverified(&leaks);
        let text = match (self.format, self.by) {
            (ReportFormat::Html, by) => html(ledger, &report(ledger, since, leaks)?, since, by)?,
            (format, Some(by)) => {
                sums(&groups(&leaks, by.into()), format, by, || self.nothing(ledger))?
            }
            (format, None) => list(&leaks, format, || self.nothing(ledger))?,
        };
        Ok((text, unverified))
    }

    /// Returns the text for an empty report. Finding nothing means something only if a pass was
    /// made.
    fn nothing(&self, ledger: &Ledger) -> Result<String> {
        let passes = ledger.pass_summaries(self.window.start())?;
        let made: u64 = passes.iter().map(|summary| summary.passes).sum();
        let of_task = self
            .task
            .as_ref()
            .map_or_else(String::new, |task| format!(" of task {}", escape(task)));
        Ok(match passes.iter().map(|summary| summary.last_at).max() {
            None => format!(
                "No leaks{of_task} recorded, but no pass was made in this time: it is unknown whether anything leaked.\n"
            ),
            Some(last) => {
                let passes = if made == 1 { "pass" } else { "passes" };
                let ago = span(since(SystemTime::now(), last));
                format!("No leaks{of_task} found in {made} {passes}, the last one {ago} ago.\n")
            }
        })
    }
}

fn html(
    ledger: &Ledger,
    report: &LeakReport,
    since: Option<SystemTime>,
    by: Option<Grouping>,
) -> Result<String> {
    let path = ledger.path().to_string_lossy();
    html::page(report, &path, since, by.map(LeakGrouping::from))
}

fn list(
    leaks: &[LeakRecord],
    format: ReportFormat,
    nothing: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let lines = || leaks.iter().map(LeakLine::from);
    match format {
        ReportFormat::Json => output::json(&lines().collect::<Vec<_>>()),
        ReportFormat::Csv => Ok(csv(&LeakLine::HEADER, lines().map(|line| line.fields()))),
        _ if leaks.is_empty() => nothing(),
        _ => Ok(leak_table(leaks)),
    }
}

fn sums(
    groups: &[LeakGroup],
    format: ReportFormat,
    by: Grouping,
    nothing: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let lines = || groups.iter().map(GroupLine::from);
    match format {
        ReportFormat::Json => output::json(&lines().collect::<Vec<_>>()),
        ReportFormat::Csv => Ok(csv(&GroupLine::HEADER, lines().map(|line| line.fields()))),
        _ if groups.is_empty() => nothing(),
        _ => Ok(sum_table(groups, &by)),
    }
}

/// Warns on stderr about trees that may have leaked unseen, since no format has a place for that.
fn warn_unverified(trees: u64) {
    let these = match trees {
        0 => return,
        1 => "1 of these trees was".to_owned(),
        _ => format!("{trees} of these trees were"),
    };
    output::to_stderr(&format!(
        "{these} contained by a session only: a daemon that left it before it was recorded is not listed"
    ));
}

/// Warns on stderr about tasks without an owner, which are leaks only once a pass has found them.
fn warn_unreaped(ledger: &Ledger) -> Result<()> {
    let trees = ledger.trees()?;
    let unreaped =
        |tree: &&TreeRecord| !tree.root.spec.limits.survive && shown_state(tree) == NO_OWNER;
    let these = match trees.iter().filter(unreaped).count() {
        0 => return Ok(()),
        1 => "1 task runs without an owner: `procledger reap` or `watch` ends it, and records the leak".to_owned(),
        tasks => format!(
            "{tasks} tasks run without an owner: `procledger reap` or `watch` ends them, and records the leaks"
        ),
    };
    output::to_stderr(&these);
    Ok(())
}

impl From<Grouping> for LeakGrouping {
    fn from(by: Grouping) -> Self {
        match by {
            Grouping::Hour => Self::Hour,
            Grouping::Day => Self::Day,
            Grouping::Task => Self::Task,
            Grouping::Rule => Self::Rule,
            Grouping::Program => Self::Program,
        }
    }
}

/// Formats leaks as a table.
pub(super) fn leak_table(leaks: &[LeakRecord]) -> String {
    let header = ["TASK", "PID", "KIND", "FOUND", "OUTCOME", "WHY", "COMMAND"];
    let mut table = Table::new(&header, 2).right(1);
    let now = SystemTime::now();
    for leak in leaks {
        let age = span(leak.age);
        let memory =
            leak.rss_bytes.map_or_else(String::new, |rss| format!(", {}", bytes(Some(rss))));
        table.row([
            leak.task_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            leak.pid.to_string(),
            leak.kind.to_string(),
            format!("{} ago", span(since(now, leak.found_at))),
            leak_outcome(leak),
            format!("{}: {} ({age} old{memory})", leak.rule, leak.evidence),
            shell_words(&leak.command),
        ]);
    }
    table.text()
}

/// Formats sums as a table; the first column is headed by the key.
pub(super) fn sum_table(groups: &[LeakGroup], by: &impl ValueEnum) -> String {
    let by = by.to_possible_value().map_or_else(String::new, |by| by.get_name().to_uppercase());
    let header =
        [&*by, "LEAKS", "ORPHANS", "STRAYS", "UNREG.", "SURVIVED", "HOURS", "MEMORY", "LAST FOUND"];
    let mut table = (1..8).fold(Table::new(&header, 0), Table::right);
    let now = SystemTime::now();
    for group in groups {
        table.row([
            if group.key.is_empty() { "-".to_owned() } else { group.key.clone() },
            group.leaks.to_string(),
            group.orphans.to_string(),
            group.strays.to_string(),
            group.unregistered.to_string(),
            group.survived.to_string(),
            format!("{:.1}", group.process_hours),
            short_bytes(Some(group.rss_bytes)),
            format!("{} ago", short_span(since(now, group.last_found_at))),
        ]);
    }
    table.text()
}
