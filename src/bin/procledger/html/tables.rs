//! Tables of the page.

use procledger::{LeakGroup, LeakRecord, Outcome, fleet::FleetLeak};

use super::format::{Figure, Shown};
use crate::render::{fleet_outcome, leak_outcome, shell_words};

/// A table of leaks counted by group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Heading of the first column.
    pub(super) key: &'static str,
    /// Text shown for an empty key.
    pub(super) none: &'static str,
    /// The option of `report` that shows the same groups.
    pub(super) option: &'static str,
    /// Sorted by newest first, not by most leaks first.
    pub(super) by_time: bool,
    pub(super) rows: Vec<GroupRow>,
    /// Number of rows that are not shown.
    pub(super) hidden: usize,
}

#[derive(Debug)]
pub(super) struct GroupRow {
    pub(super) key: Shown,
    pub(super) leaks: u64,
    pub(super) orphans: u64,
    pub(super) strays: u64,
    pub(super) unregistered: u64,
    pub(super) survived: u64,
    pub(super) hours: Figure,
    pub(super) memory: Figure,
    pub(super) last: Figure,
}

impl From<&LeakGroup> for GroupRow {
    fn from(group: &LeakGroup) -> Self {
        Self {
            key: Shown::new(&group.key),
            leaks: group.leaks,
            orphans: group.orphans,
            strays: group.strays,
            unregistered: group.unregistered,
            survived: group.survived,
            hours: Figure::hours(group.process_hours),
            memory: Figure::memory(Some(group.rss_bytes)),
            last: Figure::time(group.last_found_at),
        }
    }
}

/// One leak.
#[derive(Debug)]
pub(super) struct LeakRow {
    /// Empty in the report of a single ledger.
    pub(super) host: Shown,
    pub(super) found: Figure,
    pub(super) task: Shown,
    pub(super) pid: String,
    pub(super) kind: Shown,
    pub(super) age: Figure,
    pub(super) memory: Figure,
    pub(super) survived: bool,
    pub(super) outcome: Shown,
    pub(super) why: Shown,
    pub(super) command: String,
}

impl From<&LeakRecord> for LeakRow {
    fn from(leak: &LeakRecord) -> Self {
        Self {
            host: Shown::default(),
            found: Figure::time(leak.found_at),
            task: Shown::new(leak.task_id.as_ref().map_or("", |task| task.as_str())),
            pid: leak.pid.to_string(),
            kind: Shown::new(leak.kind.as_str()),
            age: Figure::age(leak.age),
            memory: Figure::memory(leak.rss_bytes),
            survived: leak.outcome == Outcome::Survived,
            outcome: Shown::new(&leak_outcome(leak)),
            why: Shown::new(&format!("{}: {}", leak.rule, leak.evidence)),
            // Escaped already.
            command: shell_words(&leak.command),
        }
    }
}

impl From<&FleetLeak> for LeakRow {
    fn from(leak: &FleetLeak) -> Self {
        Self {
            host: Shown::new(&leak.host),
            found: Figure::time(leak.found_at),
            task: Shown::new(leak.task_id.as_deref().unwrap_or_default()),
            pid: leak.pid.to_string(),
            kind: Shown::new(&leak.kind),
            age: Figure::age(leak.age),
            memory: Figure::memory(leak.rss_bytes),
            survived: leak.outcome == Outcome::Survived.as_str(),
            outcome: Shown::new(&fleet_outcome(leak)),
            why: Shown::new(&format!("{}: {}", leak.rule, leak.evidence)),
            command: shell_words(&leak.command),
        }
    }
}
