//! Leaks and their sums in JSON and CSV.

use procledger::{LeakGroup, LeakRecord};
use serde::Serialize;

use crate::render::{rfc3339, shell_words};

/// A leak in JSON and CSV. Stable: the help text of `report` documents it.
#[derive(Debug, Serialize)]
pub(super) struct LeakLine<'a> {
    process: i64,
    task_id: Option<&'a str>,
    pid: u32,
    kind: &'static str,
    rule: &'a str,
    evidence: &'a str,
    found_at: String,
    age_ms: u128,
    rss_bytes: Option<u64>,
    outcome: &'static str,
    died_after_ms: Option<u128>,
    command: &'a [String],
    rule_key: &'static str,
    evidence_key: &'static str,
    stop_signal: Option<i32>,
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
            found_at: rfc3339(leak.found_at),
            age_ms: leak.age.as_millis(),
            rss_bytes: leak.rss_bytes,
            outcome: leak.outcome.as_str(),
            died_after_ms: leak.died_after.map(|span| span.as_millis()),
            command: &leak.command,
            rule_key: leak.rule_key.as_str(),
            evidence_key: leak.evidence_key.as_str(),
            stop_signal: leak.stop_signal,
        }
    }
}

impl LeakLine<'_> {
    pub(super) const HEADER: [&'static str; 15] = [
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
        "rule_key",
        "evidence_key",
        "stop_signal",
    ];

    pub(super) fn fields(&self) -> Vec<String> {
        let number = |number: Option<u128>| number.map_or_else(String::new, |n| n.to_string());
        vec![
            self.process.to_string(),
            self.task_id.unwrap_or_default().to_owned(),
            self.pid.to_string(),
            self.kind.to_owned(),
            self.rule.to_owned(),
            self.evidence.to_owned(),
            self.found_at.clone(),
            self.age_ms.to_string(),
            number(self.rss_bytes.map(u128::from)),
            self.outcome.to_owned(),
            number(self.died_after_ms),
            shell_words(self.command),
            self.rule_key.to_owned(),
            self.evidence_key.to_owned(),
            self.stop_signal.map_or_else(String::new, |signal| signal.to_string()),
        ]
    }
}

/// A sum in JSON and CSV. Stable: the help text of `report` documents it.
#[derive(Debug, Serialize)]
pub(super) struct GroupLine<'a> {
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
            last_found_at: rfc3339(group.last_found_at),
        }
    }
}

impl GroupLine<'_> {
    pub(super) const HEADER: [&'static str; 9] = [
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

    pub(super) fn fields(&self) -> Vec<String> {
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
