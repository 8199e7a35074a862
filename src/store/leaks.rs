//! Leaks: processes that outlived their owner, one row for each process and kind.

use std::{cmp::Reverse, time::SystemTime};

use rusqlite::{Connection, OptionalExtension, Params, Row};
use serde::Serialize;

use super::{
    Store,
    cell::{RowReader, json},
    commit_counts::CommitCounts,
    migration::Schema,
    table::{self, table},
    transaction::Transaction,
};
use crate::{
    error::Result,
    identity::{Identity, Pid},
    model::{
        Justification, LeakKind, LeakRecord, Millis, NewLeak, ProcessId, RuleKey, TaskId, millis,
        unix_millis,
    },
};

/// The key by which leaks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakGrouping {
    /// The hour in which they were found, in UTC.
    Hour,
    /// The day on which they were found, in UTC.
    Day,
    /// The task they belonged to.
    Task,
    /// Why they count as leaks.
    Rule,
    /// The program that leaked: the last path component of its command's first word.
    Program,
}

/// Leaks that have an hour, a day, a task, a rule or a program in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeakGroup {
    /// The hour as `2025-01-10T12:00Z`, the day as `2025-01-10`, the task id, the sentence of the
    /// rule's key ([`RuleKey::sentence`]) or the program. Empty for leaks without a task.
    pub key: String,
    /// The number of leaks.
    pub leaks: u64,
    /// The number of those whose instance was dead.
    pub orphans: u64,
    /// The number of those whose root had ended.
    pub strays: u64,
    /// The number of those that were not registered.
    pub unregistered: u64,
    /// The number of those that could not be ended.
    pub survived: u64,
    /// The hours from the start of each until it was found, summed up.
    pub process_hours: f64,
    /// The resident bytes of each when it was found, summed up; a value that could not be measured
    /// counts as 0.
    pub rss_bytes: u64,
    /// When the newest of them was found; serialized as Unix milliseconds.
    #[serde(serialize_with = "unix_millis")]
    pub last_found_at: SystemTime,
}

impl LeakGroup {
    fn add(&mut self, other: &Self) {
        self.leaks += other.leaks;
        self.orphans += other.orphans;
        self.strays += other.strays;
        self.unregistered += other.unregistered;
        self.survived += other.survived;
        self.process_hours += other.process_hours;
        self.rss_bytes += other.rss_bytes;
        self.last_found_at = self.last_found_at.max(other.last_found_at);
    }
}

/// A query that counts leaks since a given time by a key.
///
/// `CROSS JOIN` keeps the order: the leaks of the window first, then each one's process by its row
/// number.
macro_rules! sum_leaks {
    ($key:literal, $from:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $key,
            " AS key, count(*) AS leaks, ",
            "sum(l.kind = 'orphan'), sum(l.kind = 'stray'), sum(l.kind = 'unregistered'), ",
            "sum(l.outcome = 'survived'), sum(l.age_ms) / 3600000.0, ",
            "coalesce(sum(l.rss_bytes), 0), max(l.found_at) AS last ",
            "FROM leak AS l INDEXED BY leak_found ",
            $from,
            " WHERE l.found_at >= ?1 GROUP BY key ORDER BY ",
            $order
        )
    };
}

/// The part of a leak that comes from the rows of its process and its root.
struct Joined {
    root: ProcessId,
    verified: bool,
    task_id: Option<TaskId>,
    pid: Pid,
    command: Vec<String>,
}

table! {
    "leak",
    insert(leak: &NewLeak, (process, pass) => (ProcessId, Option<i64>)),
    read(Joined { root, verified, task_id, pid, command } => Joined) -> LeakRecord,
    {
        process = process;
        kind = leak.kind;
        rule = leak.because.rule;
        evidence = leak.because.evidence;
        found_at = leak.found_at;
        age_ms = leak.age;
        rss_bytes = leak.rss;
        outcome = leak.outcome;
        died_after_ms = leak.died_after;
        rule_key since KEYS = Some(leak.because.rule_key);
        evidence_key since KEYS = Some(leak.because.evidence_key);
        stop_signal since LEAK_SIGNAL = leak.stop_signal;
    },
    unread {
        pass = pass;
    },
    {
        let because = Justification::recorded((rule, rule_key), (evidence, evidence_key));
        LeakRecord {
            process,
            root,
            verified,
            task_id,
            pid,
            kind,
            rule: because.rule,
            rule_key: because.rule_key,
            evidence: because.evidence,
            evidence_key: because.evidence_key,
            found_at,
            age: age_ms,
            rss_bytes,
            outcome,
            died_after: died_after_ms,
            stop_signal,
            command,
        }
    }
}

/// Returns the statement that selects the newest leaks since `?1`, at most `?2`, of the task `?3`.
pub(super) fn newest(schema: Schema) -> String {
    select(
        schema,
        "",
        "leak AS l INDEXED BY leak_found",
        "WHERE l.found_at >= ?1 AND (?3 IS NULL OR p.task_id = ?3)
         ORDER BY l.found_at DESC, l.id DESC LIMIT ?2",
    )
}

/// Returns a statement that selects leaks, joined with their processes. The columns in `before`
/// precede those that [`leak`] reads.
fn select(schema: Schema, before: &str, from: &str, rest: &str) -> String {
    let columns = table::select("l", schema, COLUMNS);
    format!(
        "SELECT {before} coalesce(p.root, p.id),
           NOT CASE WHEN p.root IS NULL THEN p.origin = 'spawned' AND p.containment = 'session' ELSE (
             SELECT r.origin = 'spawned' AND r.containment = 'session' FROM process AS r WHERE r.id = p.root) END,
           p.task_id, p.pid, p.command, {columns}
         FROM {from}
         CROSS JOIN process AS p ON p.id = l.process
         {rest}"
    )
}

/// Returns the next leaks after a row number, at most `limit`, each with its own row number.
pub(super) fn behind(
    connection: &Connection,
    schema: Schema,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Vec<(i64, LeakRecord)>> {
    numbered(connection, schema, "WHERE l.id > ?1 ORDER BY l.id LIMIT ?2", (after, limit))
}

/// Returns the leaks that these clauses select, each with its row number.
pub(super) fn numbered(
    connection: &Connection,
    schema: Schema,
    rest: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<(i64, LeakRecord)>> {
    let mut statement = connection.prepare_cached(&select(schema, "l.id,", "leak AS l", rest))?;
    let leaks = statement.query_map(params, |row| {
        let mut reader = RowReader::of(row);
        Ok((reader.take()?, leak_of(&mut reader)?))
    })?;
    leaks.collect()
}

// Named constants, so that a test can ask SQLite for their query plans. A time outside the calendar
// gives NULL, and must not affect the sums of the others.
pub(super) const BY_HOUR: &str = sum_leaks!(
    "coalesce(strftime('%Y-%m-%dT%H:00Z', l.found_at / 1000.0, 'unixepoch'), '')",
    "",
    "key DESC"
);
pub(super) const BY_DAY: &str = sum_leaks!(
    "coalesce(strftime('%Y-%m-%d', l.found_at / 1000.0, 'unixepoch'), '')",
    "",
    "key DESC"
);
pub(super) const BY_TASK: &str = sum_leaks!(
    "coalesce(p.task_id, '')",
    "CROSS JOIN process AS p ON p.id = l.process",
    "leaks DESC, last DESC, key"
);
/// Rows from programs before [`Schema::KEYS`] have no key. They are counted by their sentence, from
/// which the key follows.
pub(super) const BY_RULE: &str =
    sum_leaks!("coalesce(l.rule_key, l.rule)", "", "leaks DESC, last DESC, key");
const BY_SENTENCE: &str = sum_leaks!("l.rule", "", "leaks DESC, last DESC, key");
// The first word after its last slash: rtrim() with all characters except the slash leaves the
// folder, which is removed.
pub(super) const BY_PROGRAM: &str = sum_leaks!(
    "coalesce(replace(p.command ->> 0, rtrim(p.command ->> 0, replace(p.command ->> 0, '/', '')), ''), '')",
    "CROSS JOIN process AS p ON p.id = l.process",
    "leaks DESC, last DESC, key"
);

impl Store {
    /// Returns leaks that were found since the given time, newest first, of one task or all.
    pub(crate) fn leaks(
        &self,
        task: Option<&TaskId>,
        since: Option<Millis>,
        limit: Option<u32>,
    ) -> Result<Vec<LeakRecord>> {
        self.read("read the leaks", |connection| {
            list(connection, self.schema(), task, from(since), limit)
        })
    }

    /// Returns the counts of leaks that were found since the given time. Groups by time begin with
    /// the newest, others with the largest.
    pub(crate) fn leak_groups(
        &self,
        since: Option<Millis>,
        by: LeakGrouping,
    ) -> Result<Vec<LeakGroup>> {
        self.read("count the leaks", |connection| {
            groups(connection, self.schema(), from(since), by)
        })
    }
}

pub(super) fn from(since: Option<Millis>) -> i64 {
    since.map_or(i64::MIN, |since| since.0)
}

/// Returns the newest first, at most `limit`.
pub(super) fn list(
    connection: &Connection,
    schema: Schema,
    task: Option<&TaskId>,
    since: i64,
    limit: Option<u32>,
) -> rusqlite::Result<Vec<LeakRecord>> {
    // SQLite treats a negative limit as none.
    let limit = limit.map_or(-1, i64::from);
    connection
        .prepare_cached(&newest(schema))?
        .query_map((since, limit, task.map(TaskId::as_str)), leak)?
        .collect()
}

pub(super) fn groups(
    connection: &Connection,
    schema: Schema,
    since: i64,
    by: LeakGrouping,
) -> rusqlite::Result<Vec<LeakGroup>> {
    let query = match by {
        LeakGrouping::Hour => BY_HOUR,
        LeakGrouping::Day => BY_DAY,
        LeakGrouping::Task => BY_TASK,
        LeakGrouping::Rule if schema >= Schema::KEYS => BY_RULE,
        LeakGrouping::Rule => BY_SENTENCE,
        LeakGrouping::Program => BY_PROGRAM,
    };
    let mut statement = connection.prepare_cached(query)?;
    let groups = statement.query_map([since], group)?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(if by == LeakGrouping::Rule { by_rule(groups) } else { groups })
}

/// Merges groups whose keys or sentences belong to the same rule.
fn by_rule(found: Vec<LeakGroup>) -> Vec<LeakGroup> {
    let mut groups: Vec<LeakGroup> = Vec::new();
    for group in found {
        let rule = RuleKey::parse(&group.key).unwrap_or_else(|| RuleKey::of_sentence(&group.key));
        let group = LeakGroup { key: rule.sentence().to_owned(), ..group };
        match groups.iter_mut().find(|other| other.key == group.key) {
            Some(other) => other.add(&group),
            None => groups.push(group),
        }
    }
    groups.sort_by(|a, b| {
        let most = |group: &LeakGroup| Reverse((group.leaks, group.last_found_at));
        most(a).cmp(&most(b)).then_with(|| a.key.cmp(&b.key))
    });
    groups
}

impl Store {
    /// Returns the number of trees with leaks that were found since the given time, and that
    /// neither a task cgroup nor a keeper contained.
    pub(crate) fn unverified_trees(&self, since: Option<Millis>) -> Result<u64> {
        let since = since.map_or(i64::MIN, |since| since.0);
        self.read("count the trees that could not be verified", |connection| {
            connection
                .prepare_cached(
                    "SELECT count(DISTINCT root.id)
                     FROM leak AS l INDEXED BY leak_found
                     CROSS JOIN process AS p ON p.id = l.process
                     CROSS JOIN process AS root ON root.id = coalesce(p.root, p.id)
                     WHERE l.found_at >= ?1 AND root.origin = 'spawned' AND root.containment = 'session'",
                )?
                .query_row([since], |row| RowReader::of(row).take())
        })
    }

    /// Returns the kind of leak as which a process was recorded.
    pub(crate) fn leak_kind(&self, process: ProcessId) -> Result<Option<LeakKind>> {
        self.read("look up a leak", |connection| {
            connection
                .prepare_cached("SELECT kind FROM leak WHERE process = ?1 ORDER BY id LIMIT 1")?
                .query_one([process.0], |row| RowReader::of(row).take())
                .optional()
        })
    }
}

impl Store {
    /// Reports whether a process was left running on purpose at the given time or later. `since` is
    /// not after its start.
    pub(crate) fn was_kept(&self, identity: &Identity, since: Millis) -> Result<bool> {
        self.read("look up processes that were left on purpose", |connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (
                       SELECT 1 FROM leak AS l INDEXED BY leak_found
                       CROSS JOIN process AS p ON p.id = l.process
                       WHERE l.found_at >= ?1 AND l.outcome = 'kept'
                         AND p.pid = ?2 AND p.start_tick = ?3 AND p.pidfd_inode IS ?4)",
                )?
                .query_row(
                    (
                        since.0,
                        identity.pid.get(),
                        identity.start_tick.cast_signed(),
                        identity.pidfd_inode.map(u64::cast_signed),
                    ),
                    |row| row.get(0),
                )
        })
    }
}

/// Changes the outcome of surviving leaks whose processes have ended. An instance that observed the
/// end records more with [`upsert`].
pub(super) fn survive_no_more(
    tx: &Transaction<'_>,
    processes: &[ProcessId],
) -> rusqlite::Result<()> {
    if let [process] = processes {
        return tx
            .prepare_cached(
                "UPDATE leak SET outcome = 'gone' WHERE process = ?1 AND outcome = 'survived'",
            )?
            .execute([process.0])
            .map(|_| ());
    }
    tx.prepare_cached(
        "UPDATE leak SET outcome = 'gone'
         WHERE process IN (SELECT value FROM json_each(?1)) AND outcome = 'survived'",
    )?
    .execute([json(processes)])
    .map(|_| ())
}

/// Inserts a leak or updates it. A survivor that is found again at each pass stays one leak: only
/// its outcome is updated.
pub(super) fn upsert(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    pass: Option<i64>,
    process: ProcessId,
    leak: &NewLeak,
) -> rusqlite::Result<()> {
    let died_after = leak.died_after.map(millis);
    let before: Option<String> = tx
        .prepare_cached("SELECT outcome FROM leak WHERE process = ?1 AND kind = ?2")?
        .query_one((process.0, leak.kind.as_str()), |row| row.get(0))
        .optional()?;
    if before.as_deref() != Some(leak.outcome.as_str()) {
        counts.leaked(leak.kind, leak.outcome);
    }
    let updated = tx
        .prepare_cached(
            "UPDATE leak SET outcome = ?1, died_after_ms = ?2, pass = coalesce(?3, pass)
             WHERE process = ?4 AND kind = ?5",
        )?
        .execute((leak.outcome.as_str(), died_after, pass, process.0, leak.kind.as_str()))?;
    if updated > 0 {
        return write_signal(tx, process, leak);
    }
    insert_row(tx, leak, (process, pass)).map(|_| ())
}

/// Adds the signal that ended a process to its leak, which was recorded as a survivor before.
fn write_signal(tx: &Transaction<'_>, process: ProcessId, leak: &NewLeak) -> rusqlite::Result<()> {
    if leak.stop_signal.is_none() || tx.schema() < Schema::LEAK_SIGNAL {
        return Ok(());
    }
    tx.prepare_cached("UPDATE leak SET stop_signal = ?1 WHERE process = ?2 AND kind = ?3")?
        .execute((leak.stop_signal, process.0, leak.kind.as_str()))
        .map(drop)
}

fn leak(row: &Row<'_>) -> rusqlite::Result<LeakRecord> {
    leak_of(&mut RowReader::of(row))
}

fn leak_of(reader: &mut RowReader<'_, '_>) -> rusqlite::Result<LeakRecord> {
    let joined = Joined {
        root: reader.take()?,
        verified: reader.take()?,
        task_id: reader.take()?,
        pid: reader.take()?,
        command: reader.take()?,
    };
    read_row(reader, joined)
}

fn group(row: &Row<'_>) -> rusqlite::Result<LeakGroup> {
    let mut reader = RowReader::of(row);
    Ok(LeakGroup {
        key: reader.take()?,
        leaks: reader.take()?,
        orphans: reader.take()?,
        strays: reader.take()?,
        unregistered: reader.take()?,
        survived: reader.take()?,
        process_hours: reader.take()?,
        rss_bytes: reader.take()?,
        last_found_at: reader.take()?,
    })
}
