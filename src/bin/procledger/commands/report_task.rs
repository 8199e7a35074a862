//! The leaks of some tasks, and their sums: the same as of all tasks, which the ledger itself
//! counts.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use procledger::{
    LeakGroup, LeakGrouping, LeakKind, LeakRecord, LeakReport, Ledger, Outcome, Query, TaskId,
};

use crate::{exit::Result, html, render::rfc3339, task_pattern};

/// Returns the leaks since a time of the tasks that a name or pattern means, newest first.
pub(super) fn leaks_of(
    ledger: &Ledger,
    since: Option<SystemTime>,
    task: &str,
) -> Result<Vec<LeakRecord>> {
    let mut leaks = ledger.leaks(Query::new().since(since))?;
    let ids: Vec<&TaskId> = leaks.iter().filter_map(|leak| leak.task_id.as_ref()).collect();
    let named: HashSet<String> =
        task_pattern::matching(task, &ids).into_iter().map(str::to_owned).collect();
    leaks.retain(|leak| leak.task_id.as_ref().is_some_and(|task| named.contains(task.as_str())));
    Ok(leaks)
}

/// Returns how many of the trees with these leaks were held together by their session alone.
pub(super) fn unverified(leaks: &[LeakRecord]) -> u64 {
    let roots: HashSet<_> =
        leaks.iter().filter(|leak| !leak.verified).map(|leak| leak.root.0).collect();
    roots.len() as u64
}

/// Counts leaks by a key, in the order of [`Ledger::leak_groups`].
pub(super) fn groups(leaks: &[LeakRecord], by: LeakGrouping) -> Vec<LeakGroup> {
    let mut groups: BTreeMap<String, LeakGroup> = BTreeMap::new();
    for leak in leaks {
        let key = key(leak, by);
        let group = groups.entry(key.clone()).or_insert_with(|| LeakGroup {
            key,
            leaks: 0,
            orphans: 0,
            strays: 0,
            unregistered: 0,
            survived: 0,
            process_hours: 0.0,
            rss_bytes: 0,
            last_found_at: leak.found_at,
        });
        group.leaks += 1;
        match leak.kind {
            LeakKind::Orphan => group.orphans += 1,
            LeakKind::Stray => group.strays += 1,
            LeakKind::Unregistered => group.unregistered += 1,
        }
        group.survived += u64::from(leak.outcome == Outcome::Survived);
        group.process_hours += leak.age.as_secs_f64() / 3600.0;
        group.rss_bytes += leak.rss_bytes.unwrap_or(0);
        group.last_found_at = group.last_found_at.max(leak.found_at);
    }
    let mut groups: Vec<LeakGroup> = groups.into_values().collect();
    match by {
        LeakGrouping::Hour | LeakGrouping::Day => groups.reverse(),
        LeakGrouping::Task | LeakGrouping::Rule | LeakGrouping::Program => {
            groups.sort_by_key(|group| (Reverse(group.leaks), Reverse(group.last_found_at)));
        }
    }
    groups
}

fn key(leak: &LeakRecord, by: LeakGrouping) -> String {
    let time = || rfc3339(leak.found_at);
    match by {
        LeakGrouping::Hour => time().chars().take(13).chain(":00Z".chars()).collect(),
        LeakGrouping::Day => time().chars().take(10).collect(),
        LeakGrouping::Task => leak.task_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        LeakGrouping::Rule => leak.rule.clone(),
        LeakGrouping::Program => {
            let program = leak.command.first().map_or("", String::as_str);
            program.rsplit('/').next().unwrap_or_default().to_owned()
        }
    }
}

/// Returns all that the page shows.
pub(super) fn report(
    ledger: &Ledger,
    since: Option<SystemTime>,
    mut leaks: Vec<LeakRecord>,
) -> Result<LeakReport> {
    let by = |by| groups(&leaks, by);
    let (by_hour, by_day) = (by(LeakGrouping::Hour), by(LeakGrouping::Day));
    let (by_task, by_rule) = (by(LeakGrouping::Task), by(LeakGrouping::Rule));
    let by_program = by(LeakGrouping::Program);
    leaks.truncate(html::LEAKS_SHOWN as usize);
    let passes = ledger.pass_summaries(since)?;
    Ok(LeakReport { by_hour, by_day, by_task, by_rule, by_program, newest: leaks, passes })
}
