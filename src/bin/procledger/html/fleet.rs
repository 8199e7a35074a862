//! The page of a fleet's leak report: that of a single ledger, with a column for the host, and two
//! lines that are never left out: which hosts are silent, and what was lost.

use std::time::SystemTime;

use procledger::{LeakGroup, LeakGrouping, LeakReport, fleet::FleetLeak};

use super::{
    format::Shown,
    report::{Subject, groups, page_of, sum_of_leaks},
    tables::{Group, GroupRow, LeakRow},
};
use crate::exit::Result;

/// What the page shows.
pub(crate) struct FleetPage {
    /// Identifies the fleet.
    pub(crate) name: String,
    /// The sums of all hosts; without single leaks.
    pub(crate) report: LeakReport,
    /// The sums of each host.
    pub(crate) by_host: Vec<LeakGroup>,
    /// The newest leaks.
    pub(crate) leaks: Vec<FleetLeak>,
    /// Which hosts are silent, and what was lost.
    pub(crate) lines: [String; 2],
    /// Whether no host is silent, and nothing was lost.
    pub(crate) complete: bool,
    pub(crate) since: Option<SystemTime>,
    /// The grouping of the first table; by host where nothing else is given.
    pub(crate) first: Option<LeakGrouping>,
}

/// Renders the page.
pub(crate) fn of_fleet(fleet: &FleetPage) -> Result<String> {
    let mut tables = groups(&fleet.report, fleet.first);
    let by_host = Group {
        id: "by-host",
        title: "By host",
        key: "Host",
        none: "no name",
        option: "--by host",
        by_time: false,
        rows: fleet.by_host.iter().map(GroupRow::from).collect(),
        hidden: 0,
    };
    tables.insert(usize::from(fleet.first.is_some()), by_host);
    let subject =
        Subject { of: "Fleet", name: &fleet.name, everything: "everything that the fleet keeps" };
    let mut page = page_of(&fleet.report, subject, fleet.since);
    page.groups = tables;
    page.leaks = fleet.leaks.iter().map(LeakRow::from).collect();
    page.hidden = sum_of_leaks(&fleet.report).saturating_sub(fleet.leaks.len() as u64);
    page.lines = fleet.lines.iter().map(|line| Shown::new(line)).collect();
    page.complete = fleet.complete;
    page.text()
}
