//! The rows of a fleet's database.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// One ledger of a fleet.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FleetHost {
    /// Host name.
    pub host: String,
    /// Number of its stream.
    pub stream: i32,
    /// Uuid of the ledger.
    pub ledger: Uuid,
    /// The database login that ships it.
    pub login: String,
    /// When its first batch arrived.
    #[serde(serialize_with = "rfc3339")]
    pub made_at: SystemTime,
    /// When its last batch arrived, by the clock of the database.
    #[serde(serialize_with = "rfc3339")]
    pub seen_at: SystemTime,
    /// The time since then; serialized as `silent_ms`.
    #[serde(rename = "silent_ms", serialize_with = "super::millis::whole_millis")]
    pub silent: Duration,
    /// By how many milliseconds the host's clock was ahead of the database's.
    pub skew_ms: i64,
    /// The number of processes that had not ended.
    pub live: u64,
    /// The number of those that could not be ended.
    pub survivors: u64,
    /// The number of processes that were pruned before they were shipped.
    pub gap: u64,
    /// The number of leaks that were pruned before they were shipped.
    pub leak_gap: u64,
    /// The number of processes that were live when they were shipped, and are no longer in the
    /// ledger.
    pub lost: u64,
    /// The number of leaks that had survived when they were shipped, and are no longer in the
    /// ledger.
    pub lost_leaks: u64,
    /// How often it was shipped again from the start, after a restore.
    pub restarts: u64,
    /// When the last health pass was made, by the host's clock.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub health_at: Option<SystemTime>,
    /// When the last orphan pass was made, by the host's clock.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub orphan_at: Option<SystemTime>,
    /// Version of the program that shipped the last batch.
    pub version: String,
    /// The host of the ledger that this one is a copy of.
    pub copy_of: Option<String>,
    /// The number of rows that both this copy and the stream of its original contain, and that sums
    /// therefore count twice: those that were recorded between the last batch and the copy.
    pub copied: u64,
    /// Whether the host was given up, and no batch has arrived since.
    pub forgotten: bool,
}

impl FleetHost {
    /// Reports whether no batch has arrived for longer than `limit`, although one is expected.
    pub fn is_silent(&self, limit: Duration) -> bool {
        !self.forgotten && self.silent > limit
    }
}

/// A process of a fleet that had not ended at the last batch of its host.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FleetProcess<'a> {
    /// Host name.
    pub host: &'a str,
    /// Number of its stream.
    pub stream: i32,
    /// Its row number in its ledger.
    pub id: i64,
    /// The row number of the root that it descends from.
    pub root: Option<i64>,
    /// The task it belongs to.
    pub task_id: Option<&'a str>,
    /// Its pid on its host.
    pub pid: i32,
    /// State: `running`, `ending` or `survived`.
    pub state: &'a str,
    /// How it came into the ledger: `spawned`, `registered`, and so on.
    pub origin: &'a str,
    /// What keeps its tree together.
    pub containment: &'a str,
    /// Program of the instance that owns it.
    pub owner: Option<&'a str>,
    /// The uid that it runs as.
    pub uid: Option<i64>,
    /// Whether it may outlive its owner.
    pub survive: bool,
    /// Program and arguments.
    pub command: Vec<Cow<'a, str>>,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: SystemTime,
    /// Largest resident size observed, in bytes.
    pub peak_rss_bytes: Option<i64>,
    /// CPU time, in milliseconds.
    pub cpu_ms: Option<i64>,
    /// Why it could not be ended.
    pub last_error: Option<&'a str>,
    /// When the batch with this row arrived.
    #[serde(serialize_with = "rfc3339")]
    pub seen_at: SystemTime,
    /// The time since then; serialized as `silent_ms`.
    #[serde(rename = "silent_ms", serialize_with = "super::millis::whole_millis")]
    pub silent: Duration,
}

/// A leak of a fleet.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FleetLeak {
    /// Host name.
    pub host: String,
    /// Number of its stream.
    pub stream: i32,
    /// Its row number in its ledger.
    pub id: i64,
    /// The row number of its process.
    pub process: i64,
    /// The row number of its tree's root.
    pub root: i64,
    /// Whether the whole tree could be seen.
    pub verified: bool,
    /// The task it belonged to.
    pub task_id: Option<String>,
    /// Its pid on its host.
    pub pid: i32,
    /// What it was: `orphan`, `stray` or `unregistered`.
    pub kind: String,
    /// Why it counts as a leak, as a sentence.
    pub rule: String,
    /// Identifies the rule.
    pub rule_key: String,
    /// The evidence that linked it to the task.
    pub evidence: String,
    /// Identifies the evidence.
    pub evidence_key: String,
    /// When it was found.
    #[serde(serialize_with = "rfc3339")]
    pub found_at: SystemTime,
    /// The time from its start until it was found; serialized as `age_ms`.
    #[serde(rename = "age_ms", serialize_with = "super::millis::whole_millis")]
    pub age: Duration,
    /// Resident bytes when it was found.
    pub rss_bytes: Option<u64>,
    /// The outcome; `lost` if it is no longer in its ledger.
    pub outcome: String,
    /// The time from the first signal until it was dead.
    pub died_after_ms: Option<u64>,
    /// The signal that ended it, for the outcome `term`, where it is known.
    pub stop_signal: Option<i32>,
    /// Program and arguments.
    pub command: Vec<String>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = DateTime::<Utc>::from(*time);
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn rfc3339_or_null<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
