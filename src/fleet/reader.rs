//! Reads what the ledgers of a fleet contain, all of them together.

use std::{
    borrow::Cow,
    collections::HashMap,
    iter, mem,
    panic::resume_unwind,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use postgres::{Client, Row, fallible_iterator::FallibleIterator, row::RowIndex, types::ToSql};
use serde::Deserialize;

use super::{
    connection::{Address, failed, read},
    leak_sums,
    schema::{self, Engine, Meta},
};
use crate::{
    error::{Error, Result},
    metrics,
    model::{FleetHost, FleetLeak, FleetProcess, PassKind, PassSummary, RuleKey},
    store::{LeakGroup, LeakGrouping},
};

/// The key of the sum over all tasks or programs that are not among the 20 largest of a host's day,
/// or not among the largest of the fleet.
pub const OTHERS: &str = "(all others)";
/// How many tasks or programs are named.
const NAMED: &str = "1000";
/// The setting of PostgreSQL for sums. Parallel workers would each group nearly all of a million
/// tasks, sort them, and hand them to one process: that takes half as much CPU time again, and is
/// no faster. Those of the other sums of a page would only take the CPU from the sums by task,
/// which another connection makes meanwhile.
const SERIAL: &str = "SET LOCAL max_parallel_workers_per_gather = 0";
/// The setting for sums over rows that are in order. PostgreSQL estimates that they have few keys,
/// and would sum them in a hash table, which a million keys move to a file.
const IN_ORDER: &str = "SET LOCAL enable_hashagg = off";
const IN_ANY_ORDER: &str = "SET LOCAL enable_hashagg = DEFAULT";

/// What reading the live processes is called in an error.
const READ_LIVE: &str = "read the live processes";
/// How many of their rows are handed to the thread that converts them at once.
const ROWS_OF_A_PART: usize = 256;

/// A fleet, open for reading. It needs the role `fleet_read`.
pub struct Fleet {
    client: Client,
    meta: Meta,
}

impl Fleet {
    /// Connects to the fleet's database.
    ///
    /// # Errors
    ///
    /// Newer if its schema has changed so much that this version may not use it; if it cannot be
    /// reached, or has no schema.
    pub fn open(address: &Address) -> Result<Self> {
        let mut client = address.connect()?;
        let meta = read(&mut client, "read the fleet's version", schema::meta)?;
        if meta.oldest_shipper > schema::VERSION {
            return Err(schema::newer(meta.version));
        }
        Ok(Self { client, meta })
    }

    /// Returns the description of the fleet.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns all ledgers, sorted by host.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn hosts(&mut self) -> Result<Vec<FleetHost>> {
        let rows = self.query("read the hosts", include_str!("statements/hosts.sql"), &[])?;
        rows.iter().map(|row| Ok(FleetHost { copied: self.copied(row)?, ..host(row) })).collect()
    }

    /// Returns how many rows of a copy are in the stream of its original as well.
    fn copied(&mut self, row: &Row) -> Result<u64> {
        let bounds = ["process_floor", "copied", "leak_floor", "copied_leaks"];
        let bounds = bounds.map(|name| row.get::<_, Option<i64>>(name).unwrap_or(0));
        let Some(original) = row.get::<_, Option<i32>>("original") else { return Ok(0) };
        let [from, to, from_leak, to_leak] = bounds;
        if from >= to && from_leak >= to_leak {
            return Ok(0);
        }
        let stream: i32 = row.get("stream");
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&stream, &original, &from, &to, &from_leak, &to_leak];
        let rows = self.query(
            "count the rows of a copy",
            include_str!("statements/copied.sql"),
            &parameters,
        )?;
        Ok(rows.first().map_or(0, |row| count(row, 0)))
    }

    /// Returns what `convert` makes of each process that had not ended at the last batch of its
    /// host, sorted by host and age.
    ///
    /// Processes are converted in another thread while further ones arrive, so in any order.
    ///
    /// # Errors
    ///
    /// If the database cannot be read, or no thread can be started.
    pub fn live<T: Send>(
        &mut self,
        convert: impl FnMut(FleetProcess<'_>) -> T + Send,
    ) -> Result<Vec<T>> {
        read(&mut self.client, READ_LIVE, |client| live(client, convert))
    }

    /// Returns the newest leaks since a time, newest first.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn leaks(&mut self, since: Option<SystemTime>, limit: u32) -> Result<Vec<FleetLeak>> {
        let since = Window::since(since).from;
        let sql = include_str!("statements/leaks.sql");
        let rows = self.query("read the leaks", sql, &[&since, &i64::from(limit)])?;
        Ok(rows.iter().map(leak).collect())
    }

    /// Returns how many leaks were found since a time.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn count_leaks(&mut self, since: Option<SystemTime>) -> Result<u64> {
        let since = Window::since(since).from;
        let sql = include_str!("statements/leaks_since.sql");
        let rows = self.query("count the leaks", sql, &[&since])?;
        Ok(rows.first().map_or(0, |row| count(row, 0)))
    }

    /// Returns the leaks since a time, counted by a key: days and hours newest first, all others
    /// largest first.
    ///
    /// Tasks and programs: of the 20 largest of each host and day the 1,000 largest by name, and
    /// the others together.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn groups(
        &mut self,
        since: Option<SystemTime>,
        by: LeakGrouping,
    ) -> Result<Vec<LeakGroup>> {
        self.counted(since, Some(by))
    }

    /// Returns the leaks since a time, counted by host, the largest first.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn groups_by_host(&mut self, since: Option<SystemTime>) -> Result<Vec<LeakGroup>> {
        self.counted(since, None)
    }

    /// Counts leaks by this key; by host if there is none.
    fn counted(
        &mut self,
        since: Option<SystemTime>,
        by: Option<LeakGrouping>,
    ) -> Result<Vec<LeakGroup>> {
        use LeakGrouping::{Day, Hour, Program, Rule, Task};
        let Window { from, first_hour, first_day, first_midnight } = Window::since(since);
        let day = include_str!("statements/groups_by_day.sql");
        let task = include_str!("statements/groups_by_task.sql");
        let program = include_str!("statements/groups_by_program.sql");
        let of = |sql: &str, of_day: &str, of_leak: &str| {
            sql.replace("{parts}", include_str!("statements/parts_by_top.sql").trim_end())
                .replace("{named}", NAMED)
                .replace("{key_of_day}", of_day)
                .replace("{dimension}", of_day)
                .replace("{key_of_leak}", of_leak)
        };
        let sql = match by {
            Some(Hour) => include_str!("statements/groups_by_hour.sql").to_owned(),
            Some(Day) => of(
                day,
                "to_char(d.day, 'YYYY-MM-DD')",
                "to_char(l.found_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
            ),
            Some(Rule) => of(day, "d.rule_key", "l.rule_key"),
            Some(Task) => of(task, "task", "coalesce(l.task_id, '')"),
            Some(Program) => of(program, "program", "l.program"),
            None => of(day, "s.host", "s.host"),
        };
        let all: [&(dyn ToSql + Sync); 3] = [&from, &first_day, &first_midnight];
        let of_hours: [&(dyn ToSql + Sync); 2] = [&from, &first_hour];
        let parameters = if by == Some(Hour) { &of_hours[..] } else { &all[..] };
        let what = "count the leaks";
        let has_settings = self.meta.engine != Engine::Cockroach;
        let set = |client: &mut Client, settings| {
            if has_settings { client.batch_execute(settings) } else { Ok(()) }
        };
        let sums = |client: &mut Client| {
            set(client, SERIAL)?;
            if by != Some(Task) {
                return client.query(&sql, parameters);
            }
            set(client, IN_ORDER)?;
            let largest = include_str!("statements/largest_tasks.sql").replace("{named}", NAMED);
            let largest = client.query(&largest, &all)?;
            set(client, IN_ANY_ORDER)?;
            let largest: Vec<&str> = largest.iter().map(|row| row.get(0)).collect();
            client.query(&sql, &[&from, &first_day, &first_midnight, &largest])
        };
        let rows = read(&mut self.client, what, |client| {
            sums(client).map_err(|error| failed(what, error))
        })?;
        let mut groups: Vec<LeakGroup> = rows.iter().map(|row| group(row, by)).collect();
        match by {
            Some(Day | Hour) => groups.sort_by(|a, b| b.key.cmp(&a.key)),
            _ => groups.sort_by(|a, b| (b.leaks, &a.key).cmp(&(a.leaks, &b.key))),
        }
        Ok(groups)
    }

    /// Returns how many passes of each kind all hosts have made since the day of a time.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn pass_summaries(&mut self, since: Option<SystemTime>) -> Result<Vec<PassSummary>> {
        let day = DateTime::<Utc>::from(Window::since(since).from).date_naive();
        let sql = include_str!("statements/passes.sql");
        let rows = self.query("read the passes", sql, &[&day])?;
        let summary = |row: &Row| {
            Some(PassSummary {
                kind: PassKind::parse(row.get(0))?,
                passes: count(row, 1),
                failed: count(row, 2),
                longest_gap: span(row.get(3)),
                last_at: row.get(4),
                first_at: row.get(5),
            })
        };
        Ok(rows.iter().filter_map(summary).collect())
    }

    /// Returns the figures of all hosts as a page for Prometheus, with the leaks of a window.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn to_prometheus(&mut self, window: Duration) -> Result<String> {
        let hosts = self.hosts()?;
        let since = SystemTime::now().checked_sub(window);
        let leaks = self.groups_by_host(since)?;
        let leaks = leaks.iter().map(|group| (group.key.as_str(), group.leaks));
        Ok(metrics::fleet_page(&hosts, leaks, window))
    }

    fn query(
        &mut self,
        what: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        read(&mut self.client, what, |client| {
            client.query(sql, parameters).map_err(|error| failed(what, error))
        })
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// The window in which leaks are counted: part of an hour or a day, then whole ones.
struct Window {
    from: SystemTime,
    first_hour: DateTime<Utc>,
    first_day: NaiveDate,
    first_midnight: SystemTime,
}

impl Window {
    fn since(since: Option<SystemTime>) -> Self {
        let from = since.unwrap_or(SystemTime::UNIX_EPOCH);
        let time = DateTime::<Utc>::from(from);
        let starts_at_midnight = time.time() == NaiveTime::MIN;
        let first_day = time.date_naive() + Days::new(u64::from(!starts_at_midnight));
        let first_midnight = first_day.and_time(NaiveTime::MIN).and_utc().into();
        let hour = leak_sums::hour(time);
        let first_hour = if hour == time { hour } else { hour + Duration::from_hours(1) };
        Self { from, first_hour, first_day, first_midnight }
    }
}

fn count<I: RowIndex + std::fmt::Display>(row: &Row, column: I) -> u64 {
    u64::try_from(row.get::<_, i64>(column)).unwrap_or(0)
}

fn span(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

/// Reads the JSON array of a command; as one word if a host has shipped something else.
fn command(text: &str) -> Vec<Cow<'_, str>> {
    /// A word, which is copied only if it has an escape.
    #[derive(Deserialize)]
    struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str::<Vec<Word<'_>>>(text).map_or_else(
        |_| vec![text.into()],
        |words| words.into_iter().map(|Word(word)| word).collect(),
    )
}

fn host(row: &Row) -> FleetHost {
    FleetHost {
        host: row.get("host"),
        stream: row.get("stream"),
        ledger: row.get("ledger"),
        login: row.get("login"),
        made_at: row.get("made_at"),
        seen_at: row.get("seen_at"),
        silent: span(row.get("silent_ms")),
        skew_ms: row.get("skew_ms"),
        live: count(row, "live"),
        survivors: count(row, "survivors"),
        gap: count(row, "gap"),
        leak_gap: count(row, "leak_gap"),
        lost: count(row, "lost"),
        lost_leaks: count(row, "lost_leaks"),
        restarts: count(row, "restarts"),
        health_at: row.get("health_at"),
        orphan_at: row.get("orphan_at"),
        version: row.get("version"),
        copy_of: row.get("copy_of"),
        copied: 0,
        forgotten: row.get("forgotten"),
    }
}

/// What the live processes of a ledger have in common.
struct LiveHost {
    host: String,
    /// The position of its name in the list of hosts.
    rank: usize,
    seen_at: SystemTime,
    silent: Duration,
}

impl LiveHost {
    /// Takes the rows of `live_hosts.sql`, which are sorted by name.
    fn by_stream(rows: &[Row]) -> HashMap<i32, Self> {
        let mut rank = 0;
        let mut last = None;
        let hosts = rows.iter().map(|row| {
            let host: &str = row.get(1);
            if last.replace(host) != Some(host) {
                rank += 1;
            }
            let (seen_at, now): (SystemTime, SystemTime) = (row.get(2), row.get(3));
            let silent = now.duration_since(seen_at).unwrap_or_default();
            (row.get(0), Self { host: host.to_owned(), rank, seen_at, silent })
        });
        hosts.collect()
    }
}

/// Reads the live processes, and sorts what is made of them: the server would keep them in a file
/// to sort them.
fn live<T: Send>(
    client: &mut Client,
    mut convert: impl FnMut(FleetProcess<'_>) -> T + Send,
) -> Result<Vec<T>> {
    let failed = |error| failed(READ_LIVE, error);
    let hosts = client.query(include_str!("statements/live_hosts.sql"), &[]).map_err(failed)?;
    let hosts = LiveHost::by_stream(&hosts);
    thread::scope(|scope| {
        let (parts, received) = mpsc::sync_channel::<Vec<Row>>(4);
        let converting = move || {
            let mut converted = Vec::new();
            for row in received.into_iter().flatten() {
                let Some(host) = hosts.get(&row.get(0)) else { continue };
                let process = process(&row, host);
                let place = (host.rank, process.started_at, process.stream, process.id);
                converted.push((place, convert(process)));
            }
            converted.sort_unstable_by_key(|(place, _)| *place);
            converted.into_iter().map(|(_, converted)| converted).collect()
        };
        let converting = thread::Builder::new()
            .spawn_scoped(scope, converting)
            .map_err(|error| Error::os("failed to start a thread", error))?;
        let rows = client.query_raw(include_str!("statements/live.sql"), iter::empty::<i32>());
        let mut rows = rows.map_err(failed)?;
        let mut part = Vec::with_capacity(ROWS_OF_A_PART);
        while let Some(row) = rows.next().map_err(failed)? {
            part.push(row);
            if part.len() == ROWS_OF_A_PART {
                // Without a receiver, the other thread has panicked.
                let _ = parts.send(mem::replace(&mut part, Vec::with_capacity(ROWS_OF_A_PART)));
            }
        }
        let _ = parts.send(part);
        drop(parts);
        Ok(converting.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Reads a row of `live.sql`, by position: there may be many.
fn process<'a>(row: &'a Row, host: &'a LiveHost) -> FleetProcess<'a> {
    FleetProcess {
        host: &host.host,
        stream: row.get(0),
        id: row.get(1),
        root: row.get(2),
        task_id: row.get(3),
        pid: row.get(4),
        state: row.get(5),
        origin: row.get(6),
        containment: row.get(7),
        owner: row.get(8),
        uid: row.get(9),
        survive: row.get(10),
        command: command(row.get(11)),
        started_at: row.get(12),
        peak_rss_bytes: row.get(13),
        cpu_ms: row.get(14),
        last_error: row.get(15),
        seen_at: host.seen_at,
        silent: host.silent,
    }
}

fn leak(row: &Row) -> FleetLeak {
    let number = |name| row.get::<_, Option<i64>>(name).and_then(|number| number.try_into().ok());
    FleetLeak {
        host: row.get("host"),
        stream: row.get("stream"),
        id: row.get("id"),
        process: row.get("process"),
        root: row.get("root"),
        verified: row.get("verified"),
        task_id: row.get("task_id"),
        pid: row.get("pid"),
        kind: row.get("kind"),
        rule: row.get("rule"),
        rule_key: row.get("rule_key"),
        evidence: row.get("evidence"),
        evidence_key: row.get("evidence_key"),
        found_at: row.get("found_at"),
        age: span(row.get("age_ms")),
        rss_bytes: number("rss_bytes"),
        outcome: row.get("outcome"),
        died_after_ms: number("died_after_ms"),
        stop_signal: row.get("stop_signal"),
        command: command(row.get("command")).into_iter().map(Cow::into_owned).collect(),
    }
}

fn group(row: &Row, by: Option<LeakGrouping>) -> LeakGroup {
    use LeakGrouping::{Program, Rule, Task};
    let key: String = row.get(0);
    let is_rest = matches!(by, Some(Task | Program)) && row.get("rest");
    LeakGroup {
        key: match by {
            _ if is_rest => OTHERS.to_owned(),
            Some(Rule) => RuleKey::parse(&key).map_or(key, |rule| rule.sentence().to_owned()),
            _ => key,
        },
        leaks: count(row, 1),
        orphans: count(row, 2),
        strays: count(row, 3),
        unregistered: count(row, 4),
        survived: count(row, 5),
        process_hours: span(row.get(6)).as_secs_f64() / 3600.0,
        rss_bytes: count(row, 7),
        last_found_at: row.get(8),
    }
}

/// Returns an error for a host that the fleet does not have.
pub(super) fn no_host(host: &str) -> Error {
    Error::new(crate::error::Kind::NotFound, format!("the fleet has no host `{host}`"))
}
