//! The page of a leak report.

use std::time::SystemTime;

use askama::Template;
use procledger::{LeakGroup, LeakGrouping, LeakReport, PassKind, PassSummary, fleet::OTHERS};
use uuid::Uuid;

use super::{
    chart::{Chart, charts},
    format::{Figure, Shown, counted, thousands},
    tables::{Group, GroupRow, LeakRow},
};
use crate::{
    exit::{Failure, Result},
    render::{clock, rfc3339, since, span},
};

/// At most this many leaks are listed individually: a page with tens of thousands could not be
/// read.
pub(crate) const LEAKS_SHOWN: u32 = 1000;
/// Maximum number of rows in a table of sums.
const GROUPS_SHOWN: usize = 500;

#[derive(Template)]
#[template(path = "report.html")]
pub(super) struct Page {
    nonce: String,
    version: &'static str,
    /// The kind of thing that the report covers: a ledger or a fleet.
    of: &'static str,
    name: Shown,
    /// The subcommand that shows more.
    command: &'static str,
    /// Of a fleet: which hosts are silent, and what was lost. Empty for a ledger.
    pub(super) lines: Vec<Shown>,
    /// Whether these lines report nothing.
    pub(super) complete: bool,
    window: String,
    made: Figure,
    verdict: Verdict,
    checked: bool,
    checker: Vec<String>,
    any: bool,
    tiles: Vec<Tile>,
    charts: Vec<Chart>,
    pub(super) groups: Vec<Group>,
    pub(super) leaks: Vec<LeakRow>,
    pub(super) hidden: u64,
}

/// The subject of a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) of: &'static str,
    pub(super) name: &'a str,
    /// The window without a start.
    pub(super) everything: &'static str,
}

struct Verdict {
    headline: String,
    text: String,
}

/// One of the figures of the whole window.
struct Tile {
    id: &'static str,
    name: &'static str,
    raw: String,
    shown: String,
    note: String,
    bad: bool,
}

/// Renders the page. `first` is the grouping of its first table.
pub(crate) fn page(
    report: &LeakReport,
    ledger: &str,
    since: Option<SystemTime>,
    first: Option<LeakGrouping>,
) -> Result<String> {
    let subject = Subject {
        of: "Ledger",
        name: ledger,
        everything: "everything that is still in the ledger",
    };
    let page = page_of(report, subject, since);
    Page { groups: groups(report, first), ..page }.text()
}

impl Page {
    pub(super) fn text(&self) -> Result<String> {
        self.render().map_err(|error| Failure::because("failed to make the page", &error))
    }
}

/// Returns the number of leaks of the whole window.
pub(super) fn sum_of_leaks(report: &LeakReport) -> u64 {
    Sums::of(&report.by_rule).leaks
}

/// Returns the page of a report, without its tables of sums.
pub(super) fn page_of(
    report: &LeakReport,
    subject: Subject<'_>,
    since: Option<SystemTime>,
) -> Page {
    let now = SystemTime::now();
    let all = Sums::of(&report.by_rule);
    let window = since
        .map_or_else(|| subject.everything.to_owned(), |since| format!("since {}", clock(since)));
    Page {
        nonce: Uuid::new_v4().simple().to_string(),
        version: env!("CARGO_PKG_VERSION"),
        of: subject.of,
        name: Shown::new(subject.name),
        command: if subject.of == "Fleet" { "fleet report" } else { "report" },
        lines: Vec::new(),
        complete: true,
        window,
        made: Figure { raw: rfc3339(now), shown: clock(now) },
        verdict: verdict(&all, &report.passes),
        checked: !report.passes.is_empty(),
        checker: checker(&report.passes, now),
        any: all.leaks > 0,
        tiles: tiles(&all, report),
        charts: charts(&report.by_hour, since, now),
        groups: Vec::new(),
        leaks: report.newest.iter().map(LeakRow::from).collect(),
        hidden: all.leaks.saturating_sub(report.newest.len() as u64),
    }
}

/// The sums over all leaks of the window.
#[derive(Default)]
struct Sums {
    leaks: u64,
    orphans: u64,
    strays: u64,
    unregistered: u64,
    survived: u64,
    hours: f64,
    memory: u64,
}

impl Sums {
    fn of(groups: &[LeakGroup]) -> Self {
        groups.iter().fold(Self::default(), |sum, group| Self {
            leaks: sum.leaks + group.leaks,
            orphans: sum.orphans + group.orphans,
            strays: sum.strays + group.strays,
            unregistered: sum.unregistered + group.unregistered,
            survived: sum.survived + group.survived,
            hours: sum.hours + group.process_hours,
            memory: sum.memory.saturating_add(group.rss_bytes),
        })
    }
}

/// Returns the headline and one sentence. Finding no leaks means something only if a pass was made.
fn verdict(all: &Sums, passes: &[PassSummary]) -> Verdict {
    let (headline, text) = match (all.leaks, all.survived) {
        (0, _) if passes.is_empty() => (
            "Not checked".to_owned(),
            "No pass was made in this window, so it is unknown whether anything leaked.".to_owned(),
        ),
        (0, _) => {
            let made = passes.iter().map(|summary| summary.passes).sum();
            let text = format!("Checked in {}.", counted(made, "pass", "passes"));
            ("No leaks found".to_owned(), text)
        }
        (leaks, 0) => (
            counted(leaks, "process outlived its owner", "processes outlived their owners"),
            "Every process that was to be ended has ended.".to_owned(),
        ),
        (leaks, survived) => (
            counted(leaks, "process outlived its owner", "processes outlived their owners"),
            counted(survived, "of them could not be ended", "of them could not be ended")
                + " at the last attempt; each pass tries again.",
        ),
    };
    Verdict { headline, text }
}

fn checker(passes: &[PassSummary], now: SystemTime) -> Vec<String> {
    if passes.is_empty() {
        return vec![
            "No health pass and no orphan pass in this window: no program had the ledger open, or its history was pruned.".to_owned(),
        ];
    }
    let missing = |kind: PassKind, what: &str| {
        let none = !passes.iter().any(|summary| summary.kind == kind);
        none.then(|| format!("No {what} pass in this window."))
    };
    let made = passes.iter().map(|summary| made(summary, now));
    made.chain(missing(PassKind::Health, "health"))
        .chain(missing(PassKind::Orphan, "orphan"))
        .collect()
}

/// `20,160 health passes, the last 12s before this page was made; the longest time between two
/// 31s.`
fn made(summary: &PassSummary, now: SystemTime) -> String {
    let (one, more) = match summary.kind {
        PassKind::Health => ("health pass", "health passes"),
        PassKind::Orphan => ("orphan pass", "orphan passes"),
    };
    let mut line = format!(
        "{}, the last {} before this page was made",
        counted(summary.passes, one, more),
        span(since(now, summary.last_at))
    );
    if summary.passes > 1 {
        line += &("; the longest time between two ".to_owned() + &span(summary.longest_gap));
    }
    if summary.failed > 0 {
        line += &("; errors in ".to_owned() + &thousands(summary.failed));
    }
    line + "."
}

fn tiles(all: &Sums, report: &LeakReport) -> Vec<Tile> {
    let tile = |id, name, figure: Figure, note| Tile {
        id,
        name,
        raw: figure.raw,
        shown: figure.shown,
        note,
        bad: false,
    };
    let kinds = [
        (all.orphans, "orphan", "orphans"),
        (all.strays, "stray", "strays"),
        (all.unregistered, "unregistered", "unregistered"),
    ];
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, more)| counted(count, one, more))
        .collect();
    // A fleet names only the largest, and counts all others together.
    let is_others = |group: &&LeakGroup| group.key == OTHERS;
    let is_task = |group: &&LeakGroup| !group.key.is_empty() && !is_others(group);
    let mut tasks = Figure::count(report.by_task.iter().filter(is_task).count() as u64);
    if report.by_task.iter().any(|group| is_others(&group)) {
        tasks.shown.push('+');
    }
    let programs = report.by_program.iter().filter(|group| !is_others(group)).count() as u64;
    let mut programs = counted(programs, "program", "programs");
    if report.by_program.iter().any(|group| is_others(&group)) {
        programs.push_str(" and others");
    }
    vec![
        tile("sum-leaks", "Leaks", Figure::count(all.leaks), kinds.join(", ")),
        Tile {
            bad: all.survived > 0,
            ..tile(
                "sum-survived",
                "Survived",
                Figure::count(all.survived),
                "could not be ended".into(),
            )
        },
        tile(
            "sum-hours",
            "Process-hours",
            Figure::hours(all.hours),
            "from start until found".into(),
        ),
        tile(
            "sum-memory",
            "Memory",
            Figure::memory(Some(all.memory)),
            "resident when found".into(),
        ),
        tile("sum-tasks", "Tasks", tasks, programs),
    ]
}

pub(super) fn groups(report: &LeakReport, first: Option<LeakGrouping>) -> Vec<Group> {
    let group = |id, title, key, none, option, groups: &[LeakGroup]| Group {
        id,
        title,
        key,
        none,
        option,
        by_time: option == "--by day",
        rows: groups.iter().take(GROUPS_SHOWN).map(GroupRow::from).collect(),
        hidden: groups.len().saturating_sub(GROUPS_SHOWN),
    };
    let mut all = vec![
        (
            LeakGrouping::Task,
            group("by-task", "By task", "Task", "no task", "--by task", &report.by_task),
        ),
        (
            LeakGrouping::Program,
            group(
                "by-program",
                "By program",
                "Program",
                "no name",
                "--by program",
                &report.by_program,
            ),
        ),
        (
            LeakGrouping::Rule,
            group("by-rule", "By rule", "Rule", "no rule", "--by rule", &report.by_rule),
        ),
        (LeakGrouping::Day, group("by-day", "By day", "Day", "no day", "--by day", &report.by_day)),
    ];
    if first == Some(LeakGrouping::Hour) {
        let hours = Group {
            by_time: true,
            ..group("by-hour", "By hour", "Hour", "no hour", "--by hour", &report.by_hour)
        };
        all.push((LeakGrouping::Hour, hours));
    }
    all.sort_by_key(|(by, _)| Some(*by) != first);
    all.into_iter().map(|(_, group)| group).collect()
}
