//! `fleet report`: the leaks of all hosts, which hosts are silent, and what was lost.

use std::{
    panic::resume_unwind,
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum, builder::PossibleValue};
use procledger::{
    LeakGroup, LeakGrouping,
    fleet::{Fleet, FleetHost},
};
use serde::Serialize;

use super::{
    address::From,
    listing::{SILENT, leak_table},
};
use crate::{
    commands::{
        report::{self, Window, sum_table},
        report_lines::GroupLine,
    },
    exit::{Exit, Result},
    html::{self, FleetPage},
    output,
    render::short_span,
};

/// Hours are shown for windows up to this: a longer chart has no room for them.
const HOURLY: Duration = Duration::from_hours(7 * 24);

/// List the leaks of all hosts, or sums, with the hosts that are silent and what was lost
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger fleet report --since 7days --by host
  procledger fleet report --since 30days --format html -o leaks.html

The last two lines are always printed: which hosts are silent, so that nothing is known about \
them, and what was lost. --by task and --by program: of the 20 largest of each host and day, the \
1000 largest by name, and `(all others)` for the rest.
--json: {leaks or groups, silent, lost}; leaks are those of `leaks`, at most 1000; groups are \
{key, leaks, orphans, strays, unregistered, survived, process_hours, rss_bytes, last_found_at}; \
silent and lost are the hosts concerned, in the form of `hosts`.")]
pub(super) struct ReportArgs {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    window: Window,
    /// Print sums instead of a list
    #[arg(long)]
    by: Option<FleetGrouping>,
    /// Print JSON: short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[arg(long, default_value = "table")]
    format: FleetReportFormat,
    /// Write to this file instead of stdout (replaced atomically)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The key of sums: the host, or one of those of a single ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FleetGrouping {
    Host,
    Of(report::Grouping),
}

impl ValueEnum for FleetGrouping {
    fn value_variants<'a>() -> &'a [Self] {
        use report::Grouping::{Day, Hour, Program, Rule, Task};
        const ALL: [FleetGrouping; 6] = [
            FleetGrouping::Of(Day),
            FleetGrouping::Of(Hour),
            FleetGrouping::Host,
            FleetGrouping::Of(Task),
            FleetGrouping::Of(Rule),
            FleetGrouping::Of(Program),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Host => Some(PossibleValue::new("host")),
            Self::Of(by) => by.to_possible_value(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FleetReportFormat {
    Table,
    Json,
    Html,
}

#[derive(Serialize)]
struct Json<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupLine<'a>>>,
    silent: Vec<&'a FleetHost>,
    lost: Vec<&'a FleetHost>,
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let since = self.window.start();
        let mut fleet = self.from.open()?;
        let format = if self.json { FleetReportFormat::Json } else { self.format };
        let text = match (format, self.by) {
            (FleetReportFormat::Html, _) => html::of_fleet(&self.page(&mut fleet, since)?)?,
            (format, Some(by)) => {
                let groups = match by {
                    FleetGrouping::Host => fleet.groups_by_host(since)?,
                    FleetGrouping::Of(by) => fleet.groups(since, by.into())?,
                };
                sums(&groups, &fleet.hosts()?, format, by)?
            }
            (format, None) => {
                let (leaks, hosts) = (fleet.leaks(since, html::LEAKS_SHOWN)?, fleet.hosts()?);
                if format == FleetReportFormat::Json {
                    json(Some(leaks), None, &hosts)?
                } else {
                    leak_table(&leaks) + &lines(&hosts)
                }
            }
        };
        match &self.output {
            None => output::print(text).map(drop)?,
            Some(file) => output::to_file(file, text.as_bytes())?,
        }
        Ok(Exit::DONE)
    }

    fn page(&self, fleet: &mut Fleet, since: Option<SystemTime>) -> Result<FleetPage> {
        // The sums by task take as long as all others together: another connection makes them
        // meanwhile.
        let (by_task, page) = thread::scope(|scope| {
            let by_task = scope.spawn(|| -> Result<_> {
                Ok(self.from.open()?.groups(since, LeakGrouping::Task)?)
            });
            let page = self.page_without_tasks(fleet, since);
            (by_task.join().unwrap_or_else(|panic| resume_unwind(panic)), page)
        });
        let mut page = page?;
        page.report.by_task = by_task?;
        Ok(page)
    }

    fn page_without_tasks(
        &self,
        fleet: &mut Fleet,
        since: Option<SystemTime>,
    ) -> Result<FleetPage> {
        use LeakGrouping::{Day, Hour, Program, Rule};
        let hosts = fleet.hosts()?;
        let by_day = fleet.groups(since, Day)?;
        let by_hour = if self.window.length().is_some_and(|span| span <= HOURLY) {
            fleet.groups(since, Hour)?
        } else {
            by_day.iter().map(midnight).collect()
        };
        Ok(FleetPage {
            name: fleet.meta().fleet.simple().to_string(),
            report: procledger::LeakReport {
                by_hour,
                by_day,
                by_task: Vec::new(),
                by_rule: fleet.groups(since, Rule)?,
                by_program: fleet.groups(since, Program)?,
                newest: Vec::new(),
                passes: fleet.pass_summaries(since)?,
            },
            by_host: fleet.groups_by_host(since)?,
            leaks: fleet.leaks(since, html::LEAKS_SHOWN)?,
            complete: silent_hosts(&hosts).is_empty()
                && hosts_with_losses(&hosts).is_empty()
                && !hosts.is_empty(),
            lines: sentences(&hosts),
            since,
            first: match self.by {
                Some(FleetGrouping::Of(by)) => Some(by.into()),
                Some(FleetGrouping::Host) | None => None,
            },
        })
    }
}

/// Returns the sum of a day as that of its first hour.
fn midnight(day: &LeakGroup) -> LeakGroup {
    LeakGroup { key: format!("{}T00:00Z", day.key), ..day.clone() }
}

fn sums(
    groups: &[LeakGroup],
    hosts: &[FleetHost],
    format: FleetReportFormat,
    by: FleetGrouping,
) -> Result<String> {
    if format == FleetReportFormat::Json {
        let groups = groups.iter().map(GroupLine::from).collect();
        return json(None::<()>, Some(groups), hosts);
    }
    Ok(sum_table(groups, &by) + &lines(hosts))
}

fn json<T: Serialize>(
    leaks: Option<T>,
    groups: Option<Vec<GroupLine<'_>>>,
    hosts: &[FleetHost],
) -> Result<String> {
    output::json(&Json {
        leaks,
        groups,
        silent: silent_hosts(hosts),
        lost: hosts_with_losses(hosts),
    })
}

fn silent_hosts(hosts: &[FleetHost]) -> Vec<&FleetHost> {
    hosts.iter().filter(|host| host.is_silent(SILENT)).collect()
}

fn hosts_with_losses(hosts: &[FleetHost]) -> Vec<&FleetHost> {
    let has_lost = |host: &&FleetHost| {
        host.gap + host.leak_gap + host.lost + host.lost_leaks + host.restarts + host.copied > 0
    };
    hosts.iter().filter(has_lost).collect()
}

/// Returns the two lines at the end of each report.
fn lines(hosts: &[FleetHost]) -> String {
    let [silent, lost] = sentences(hosts).map(crate::render::escaped);
    format!("\n{silent}\n{lost}\n")
}

fn sentences(hosts: &[FleetHost]) -> [String; 2] {
    let expected = hosts.iter().filter(|host| !host.forgotten).count();
    let silent = silent_hosts(hosts);
    let silent = match (expected, silent.as_slice()) {
        (0, _) => "Silent: no host ships to this fleet, so nothing is known.".to_owned(),
        (_, []) => format!("Silent: none (ledgers: {expected})."),
        (_, silent) => {
            let names: Vec<String> = silent
                .iter()
                .map(|host| format!("{} ({})", host.host, short_span(host.silent)))
                .collect();
            format!(
                "Silent: {} of {expected} ledgers, of which nothing is known since then: {}.",
                silent.len(),
                names.join(", ")
            )
        }
    };
    let part = |what: &str, count: fn(&FleetHost) -> u64| {
        let names: Vec<String> = hosts
            .iter()
            .filter(|host| count(host) > 0)
            .map(|host| format!("{}: {}", host.host, count(host)))
            .collect();
        let sum: u64 = hosts.iter().map(count).sum();
        (sum > 0).then(|| format!("{what}: {sum} ({})", names.join(", ")))
    };
    let parts: Vec<String> = [
        part("rows pruned before they were shipped", |host| host.gap + host.leak_gap),
        part("open rows that are not in their ledgers any more", |host| {
            host.lost + host.lost_leaks
        }),
        part("shipped again from the start after a restore", |host| host.restarts),
        part("rows of a copy that its original has as well, counted twice", |host| host.copied),
    ]
    .into_iter()
    .flatten()
    .collect();
    let lost = if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") };
    [silent, format!("Lost: {lost}.")]
}
