//! `report`: what leaked.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use procledger::{LeakGroup, LeakGrouping, LeakRecord, Millis};
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output,
    render::{Table, Tense, after, bytes, clock, csv, outcome, shell_words, span},
    units,
};

/// List what leaked: what outlived its owner, why it counts, how it ended
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger report --since 7days --by task

--format json: an array of objects; without --by {process, task_id, pid, kind, rule, evidence,
found_at, age_ms, rss_bytes, outcome, died_after_ms, command}, with --by {key, leaks, orphans,
strays, unregistered, survived, process_hours, rss_bytes, last_found_at}; times are RFC 3339.
--format csv: the same columns (RFC 4180). Control characters are escaped, otherwise fields are
raw data: import them as text, a spreadsheet takes a leading `=` for a formula.
Told on stderr: how many of these trees were held together by a session alone, so that a daemon
may have escaped unseen.")]
pub(crate) struct ReportArgs {
    /// Only what was found within this time
    #[arg(long, value_name = "D", value_parser = units::duration)]
    since: Option<Duration>,
    /// Sums instead of a list
    #[arg(long)]
    by: Option<By>,
    #[arg(long, default_value = "table")]
    format: Format,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Day,
    Task,
    Rule,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

impl ReportArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        // Further back than the clock reaches is everything.
        let since = self.since.and_then(|span| SystemTime::now().checked_sub(span));
        let ledger = context.read()?;
        let text = match self.by {
            None => leaks(&ledger.leaks(since)?, self.format)?,
            Some(by) => groups(&ledger.leak_groups(since, by.into())?, self.format)?,
        };
        match &self.output {
            None => output::print(text).map(drop)?,
            Some(file) => fs::write(file, text).map_err(|error| {
                Failure::because(format!("failed to write {}", file.display()), &error)
            })?,
        }
        tell_unverified(ledger.unverified_trees(since)?);
        Ok(Exit::DONE)
    }
}

/// What no format has a place for, and nobody should overlook.
fn tell_unverified(trees: u64) {
    let these = match trees {
        0 => return,
        1 => "1 of these trees was".to_owned(),
        _ => format!("{trees} of these trees were"),
    };
    output::to_stderr(&format!(
        "{these} held together by a session alone: a daemon that left it before anybody looked is not listed"
    ));
}

impl From<By> for LeakGrouping {
    fn from(by: By) -> Self {
        match by {
            By::Day => Self::Day,
            By::Task => Self::Task,
            By::Rule => Self::Rule,
        }
    }
}

fn leaks(leaks: &[LeakRecord], format: Format) -> Result<String> {
    let lines: Vec<_> = leaks.iter().map(LeakLine::from).collect();
    Ok(match format {
        Format::Json => output::json(&lines)?,
        Format::Csv => {
            csv(&LeakLine::HEADER, &lines.iter().map(LeakLine::fields).collect::<Vec<_>>())
        }
        Format::Table if leaks.is_empty() => "No leaks.\n".to_owned(),
        Format::Table => leak_table(leaks),
    })
}

fn groups(groups: &[LeakGroup], format: Format) -> Result<String> {
    let lines: Vec<_> = groups.iter().map(GroupLine::from).collect();
    Ok(match format {
        Format::Json => output::json(&lines)?,
        Format::Csv => {
            csv(&GroupLine::HEADER, &lines.iter().map(GroupLine::fields).collect::<Vec<_>>())
        }
        Format::Table if groups.is_empty() => "No leaks.\n".to_owned(),
        Format::Table => group_table(groups),
    })
}

/// Leaks for people.
pub(super) fn leak_table(leaks: &[LeakRecord]) -> String {
    let header = ["TASK", "PID", "KIND", "FOUND", "OUTCOME", "WHY", "COMMAND"];
    let mut table = Table::new(&header, 2).right(1);
    let now = Millis::now();
    for leak in leaks {
        let age = span(Duration::from_millis(leak.age_ms));
        let memory =
            leak.rss_bytes.map_or_else(String::new, |rss| format!(", {}", bytes(Some(rss))));
        table.row([
            leak.task_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            leak.pid.to_string(),
            leak.kind.to_string(),
            format!("{} ago", span(now.since(leak.found_at))),
            after(outcome(leak.outcome, Tense::Done), leak.died_after_ms),
            format!("{}: {} ({age} old{memory})", leak.rule, leak.evidence),
            shell_words(&leak.command),
        ]);
    }
    table.text()
}

fn group_table(groups: &[LeakGroup]) -> String {
    let header = [
        "KEY",
        "LEAKS",
        "ORPHANS",
        "STRAYS",
        "UNREGISTERED",
        "SURVIVED",
        "PROCESS HOURS",
        "MEMORY",
        "LAST FOUND",
    ];
    let mut table = (1..8).fold(Table::new(&header, 0), Table::right);
    for group in groups {
        table.row([
            group.key.clone(),
            group.leaks.to_string(),
            group.orphans.to_string(),
            group.strays.to_string(),
            group.unregistered.to_string(),
            group.survived.to_string(),
            format!("{:.1}", group.process_hours),
            bytes(Some(group.rss_bytes)),
            clock(group.last_found_at),
        ]);
    }
    table.text()
}

/// A leak in JSON and CSV. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct LeakLine<'a> {
    process: i64,
    task_id: Option<&'a str>,
    pid: u32,
    kind: &'static str,
    rule: &'a str,
    evidence: &'a str,
    found_at: String,
    age_ms: u64,
    rss_bytes: Option<u64>,
    outcome: &'static str,
    died_after_ms: Option<u64>,
    command: &'a [String],
}

impl<'a> From<&'a LeakRecord> for LeakLine<'a> {
    fn from(leak: &'a LeakRecord) -> Self {
        Self {
            process: leak.process.0,
            task_id: leak.task_id.as_ref().map(procledger::TaskId::as_str),
            pid: leak.pid.get(),
            kind: leak.kind.as_str(),
            rule: &leak.rule,
            evidence: &leak.evidence,
            found_at: leak.found_at.to_rfc3339(),
            age_ms: leak.age_ms,
            rss_bytes: leak.rss_bytes,
            outcome: leak.outcome.as_str(),
            died_after_ms: leak.died_after_ms,
            command: &leak.command,
        }
    }
}

impl LeakLine<'_> {
    const HEADER: [&'static str; 12] = [
        "process",
        "task_id",
        "pid",
        "kind",
        "rule",
        "evidence",
        "found_at",
        "age_ms",
        "rss_bytes",
        "outcome",
        "died_after_ms",
        "command",
    ];

    fn fields(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
        vec![
            self.process.to_string(),
            self.task_id.unwrap_or_default().to_owned(),
            self.pid.to_string(),
            self.kind.to_owned(),
            self.rule.to_owned(),
            self.evidence.to_owned(),
            self.found_at.clone(),
            self.age_ms.to_string(),
            number(self.rss_bytes),
            self.outcome.to_owned(),
            number(self.died_after_ms),
            shell_words(self.command),
        ]
    }
}

/// A sum in JSON and CSV. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct GroupLine<'a> {
    key: &'a str,
    leaks: u64,
    orphans: u64,
    strays: u64,
    unregistered: u64,
    survived: u64,
    process_hours: f64,
    rss_bytes: u64,
    last_found_at: String,
}

impl<'a> From<&'a LeakGroup> for GroupLine<'a> {
    fn from(group: &'a LeakGroup) -> Self {
        Self {
            key: &group.key,
            leaks: group.leaks,
            orphans: group.orphans,
            strays: group.strays,
            unregistered: group.unregistered,
            survived: group.survived,
            process_hours: group.process_hours,
            rss_bytes: group.rss_bytes,
            last_found_at: group.last_found_at.to_rfc3339(),
        }
    }
}

impl GroupLine<'_> {
    const HEADER: [&'static str; 9] = [
        "key",
        "leaks",
        "orphans",
        "strays",
        "unregistered",
        "survived",
        "process_hours",
        "rss_bytes",
        "last_found_at",
    ];

    fn fields(&self) -> Vec<String> {
        vec![
            self.key.to_owned(),
            self.leaks.to_string(),
            self.orphans.to_string(),
            self.strays.to_string(),
            self.unregistered.to_string(),
            self.survived.to_string(),
            format!("{:.3}", self.process_hours),
            self.rss_bytes.to_string(),
            self.last_found_at.clone(),
        ]
    }
}
