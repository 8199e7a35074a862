//! `fleet report`: the leaks of all hosts, which hosts are silent, and what was lost.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use procledger::{
    LeakGroup,
    fleet::{Fleet, FleetGrouping, FleetHost},
};
use serde::Serialize;

use super::{
    address::From,
    listing::{SILENT, leak_table},
};
use crate::{
    commands::{report::sum_table, report_lines::GroupLine},
    exit::{Exit, Result},
    output,
    page::{self, FleetPage},
    render::short_span,
    units,
};

/// Hours are shown for windows up to this: they are counted leak by leak.
const HOURLY: Duration = Duration::from_hours(7 * 24);

/// List the leaks of all hosts, or sums, with the hosts that are silent and what was lost
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger fleet report --since 7days --by host
  procledger fleet report --since 30days --format html -o leaks.html

The last two lines are always there: which hosts are silent, so that nothing is known of them, and what
was lost. --by task and program: of the 20 largest of each host and day the 1000 largest by name, and
`(all others)`. --by hour reads leak by leak: ask for a few days.
--json: {leaks or groups, silent, lost}; leaks are those of `leaks`, at most 1000; groups are {key, leaks,
orphans, strays, unregistered, survived, process_hours, rss_bytes, last_found_at}; silent and lost are
the hosts concerned, as of `hosts`.")]
pub(super) struct ReportArgs {
    #[command(flatten)]
    from: From,
    /// Include only leaks that were found within this time, or since this date (2026-11-01, UTC)
    #[arg(long, value_name = "D", value_parser = units::age)]
    since: Option<Duration>,
    /// Print sums instead of a list
    #[arg(long)]
    by: Option<By>,
    /// Print JSON: short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[arg(long, default_value = "table")]
    format: Format,
    /// Write to this file instead of stdout (replaced atomically)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Day,
    Hour,
    Host,
    Task,
    Rule,
    Program,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
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
        let since = self.since.and_then(|span| SystemTime::now().checked_sub(span));
        let mut fleet = self.from.open()?;
        let hosts = fleet.hosts()?;
        let format = if self.json { Format::Json } else { self.format };
        let text = match (format, self.by) {
            (Format::Html, by) => self.html(&mut fleet, &hosts, since, by)?,
            (format, Some(by)) => {
                let groups = fleet.groups(since, by.grouping())?;
                sums(&groups, &hosts, format, by)?
            }
            (format, None) => {
                let leaks = fleet.leaks(since, page::LEAKS_SHOWN)?;
                if format == Format::Json {
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

    fn html(
        &self,
        fleet: &mut Fleet,
        hosts: &[FleetHost],
        since: Option<SystemTime>,
        by: Option<By>,
    ) -> Result<String> {
        let mut groups = |by: By| fleet.groups(since, by.grouping());
        let by_day = groups(By::Day)?;
        let by_hour = if self.since.is_some_and(|span| span <= HOURLY) {
            groups(By::Hour)?
        } else {
            let midnight =
                |day: &LeakGroup| LeakGroup { key: format!("{}T00:00Z", day.key), ..day.clone() };
            by_day.iter().map(midnight).collect()
        };
        let (by_host, by_task) = (groups(By::Host)?, groups(By::Task)?);
        let (by_rule, by_program) = (groups(By::Rule)?, groups(By::Program)?);
        let leaks = fleet.leaks(since, page::LEAKS_SHOWN)?;
        let passes = fleet.pass_summaries(since)?;
        let [silent, lost] = sentences(hosts);
        page::of_fleet(&FleetPage {
            name: fleet.meta().fleet.simple().to_string(),
            report: procledger::LeakReport {
                by_hour,
                by_day,
                by_task,
                by_rule,
                by_program,
                newest: Vec::new(),
                passes,
            },
            by_host,
            leaks,
            complete: unheard(hosts).is_empty() && losers(hosts).is_empty() && !hosts.is_empty(),
            lines: [silent, lost],
            since,
            first: by.map(By::name),
        })
    }
}

fn sums(groups: &[LeakGroup], hosts: &[FleetHost], format: Format, by: By) -> Result<String> {
    if format == Format::Json {
        let groups = groups.iter().map(GroupLine::from).collect();
        return json(None::<()>, Some(groups), hosts);
    }
    Ok(sum_table(groups, &by.name().to_uppercase()) + &lines(hosts))
}

fn json<T: Serialize>(
    leaks: Option<T>,
    groups: Option<Vec<GroupLine<'_>>>,
    hosts: &[FleetHost],
) -> Result<String> {
    output::json(&Json { leaks, groups, silent: unheard(hosts), lost: losers(hosts) })
}

fn unheard(hosts: &[FleetHost]) -> Vec<&FleetHost> {
    hosts.iter().filter(|host| host.is_silent(SILENT)).collect()
}

fn losers(hosts: &[FleetHost]) -> Vec<&FleetHost> {
    let has_lost = |host: &&FleetHost| {
        host.gap + host.leak_gap + host.lost + host.lost_leaks + host.restarts > 0
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
    let silent = unheard(hosts);
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
    ]
    .into_iter()
    .flatten()
    .collect();
    let lost = if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") };
    [silent, format!("Lost: {lost}.")]
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Host => "host",
            Self::Task => "task",
            Self::Rule => "rule",
            Self::Program => "program",
        }
    }

    fn grouping(self) -> FleetGrouping {
        match self {
            Self::Day => FleetGrouping::Day,
            Self::Hour => FleetGrouping::Hour,
            Self::Host => FleetGrouping::Host,
            Self::Task => FleetGrouping::Task,
            Self::Rule => FleetGrouping::Rule,
            Self::Program => FleetGrouping::Program,
        }
    }
}
