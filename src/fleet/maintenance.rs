//! Maintenance by the owner of a fleet's database: partitions, retention, and hosts that are gone.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use postgres::{Client, Transaction};
use uuid::Uuid;

use super::{
    connection::{Address, begin, failed, quoted},
    leak_sums,
    reader::no_host,
    schema::{self, partition, weeks},
};
use crate::error::Result;

/// Sums are recomputed for this many days: longer than a leak usually stays open.
const DAYS_OF_SUMS: u64 = 14;
/// The settings of a transaction that deletes or computes rows. Locks of rows are waited for: no
/// other statement queues behind this one, and a shipper that hangs holds them only briefly.
const ROWS: &str = "SET LOCAL statement_timeout = 0";
/// The settings of a transaction that creates or drops a table. Other statements queue behind one
/// that waits for the lock of a table: it fails instead, and can be run again.
const TABLES: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '5s'";

/// The result of [`maintain`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Maintenance {
    /// Partitions that were created.
    pub created: Vec<String>,
    /// Partitions that were dropped, since all of their rows were too old.
    pub dropped: Vec<String>,
    /// Rows that were deleted one by one.
    pub deleted: u64,
    /// Streams whose sums were recomputed.
    pub streams: u64,
    /// Indexes that were rebuilt, since they were half empty.
    pub rebuilt: Vec<String>,
}

/// The result of [`forget`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Forgotten {
    /// Ledgers of the host.
    pub ledgers: u64,
    /// Processes that were live at the last batch, and are lost now.
    pub processes: u64,
    /// Leaks that had survived, and are lost now.
    pub leaks: u64,
}

/// Creates the partitions of the coming weeks, deletes history that is older than the fleet keeps,
/// recomputes the sums of the last two weeks, vacuums their tables, and rebuilds indexes that are
/// half empty. Run it once a day, as the owner.
///
/// # Errors
///
/// If the database cannot be reached, or the user does not own the schema.
pub fn maintain(address: &Address) -> Result<Maintenance> {
    let mut client = schema::connect_as_owner(address)?;
    let mut done = Maintenance::default();
    let mut reading = begin(&mut client, "read the fleet's version")?;
    let meta = schema::meta(&mut reading)?;
    let now = schema::now(&mut reading)?;
    drop(reading);
    let oldest = SystemTime::from(now).checked_sub(meta.keep).unwrap_or(SystemTime::UNIX_EPOCH);
    if meta.engine.has_partitions() {
        create(&mut client, now, &meta, &mut done)?;
        drop_old(&mut client, oldest, &mut done)?;
    }
    let day = DateTime::<Utc>::from(oldest).date_naive();
    for (statement, by_day) in [
        (include_str!("statements/expire_ended.sql"), false),
        (include_str!("statements/expire_leak.sql"), false),
        (include_str!("statements/expire_leak_hour.sql"), false),
        (include_str!("statements/expire_leak_day.sql"), true),
        (include_str!("statements/expire_leak_top.sql"), true),
        (include_str!("statements/expire_pass_day.sql"), true),
    ] {
        let what = "delete old history";
        let mut transaction = begin_with(&mut client, ROWS, what)?;
        let deleted = if by_day {
            transaction.execute(statement, &[&day])
        } else {
            transaction.execute(statement, &[&oldest])
        };
        done.deleted += deleted
            .and_then(|deleted| transaction.commit().map(|()| deleted))
            .map_err(|error| failed(what, error))?;
    }
    let hours = (0..DAYS_OF_SUMS * 24).map(|back| now - Duration::from_hours(back));
    let hours: Vec<DateTime<Utc>> = hours.collect();
    let what = "recompute the sums";
    let streams = begin(&mut client, what)?.query(include_str!("statements/streams.sql"), &[]);
    for row in streams.map_err(|error| failed(what, error))? {
        let stream: i32 = row.get(0);
        let mut transaction = begin_with(&mut client, ROWS, what)?;
        // Its shipper locks the row first as well: otherwise both would insert the same sums.
        transaction
            .execute(include_str!("statements/lock_stream.sql"), &[&stream])
            .and_then(|_| recompute(&mut transaction, stream, &hours))
            .and_then(|()| transaction.commit())
            .map_err(|error| failed(what, error))?;
        done.streams += 1;
    }
    if meta.engine.has_partitions() {
        vacuum(&mut client)?;
        rebuild(&mut client, now, &mut done)?;
    }
    let what = "maintain the fleet";
    let mut transaction = begin(&mut client, what)?;
    transaction
        .execute(include_str!("statements/maintained.sql"), &[])
        .and_then(|_| transaction.commit())
        .map_err(|error| failed(what, error))?;
    Ok(done)
}

/// Begins a transaction with these settings of its own.
fn begin_with<'a>(client: &'a mut Client, settings: &str, what: &str) -> Result<Transaction<'a>> {
    let mut transaction = begin(client, what)?;
    transaction.batch_execute(settings).map_err(|error| failed(what, error))?;
    Ok(transaction)
}

fn create(
    client: &mut Client,
    now: DateTime<Utc>,
    meta: &schema::Meta,
    done: &mut Maintenance,
) -> Result<()> {
    let what = "create a partition";
    let existing = partitions(client)?;
    for monday in weeks(now, meta.keep) {
        let name = format!("ended_{}", monday.format("%Y%m%d"));
        if existing.contains(&name) {
            continue;
        }
        let mut transaction = begin_with(client, TABLES, what)?;
        // Rows that are already in the default partition cannot be moved, and stay there.
        let range = [monday, monday + Days::new(7)].map(midnight);
        let found = transaction
            .query_one(include_str!("schema/partition_default.sql"), &[&range[0], &range[1]]);
        if found.map_err(|error| failed(what, error))?.get::<_, i64>(0) == 0 {
            transaction
                .batch_execute(&partition(monday))
                .and_then(|()| transaction.commit())
                .map_err(|error| failed(what, error))?;
            done.created.push(name);
        }
    }
    Ok(())
}

fn drop_old(client: &mut Client, oldest: SystemTime, done: &mut Maintenance) -> Result<()> {
    let what = "drop a partition";
    for name in partitions(client)? {
        if monday(&name).is_none_or(|monday| midnight(monday + Days::new(7)) > oldest) {
            continue;
        }
        let mut transaction = begin_with(client, TABLES, what)?;
        // A process that has run for long ended much later than it had started.
        let recent = include_str!("schema/partition_recent.sql").replace("{partition}", &name);
        let found =
            transaction.query_one(&recent, &[&oldest]).map_err(|error| failed(what, error))?;
        if found.get::<_, i64>(0) == 0 {
            transaction
                .batch_execute(&format!("DROP TABLE fleet.{name}"))
                .and_then(|()| transaction.commit())
                .map_err(|error| failed(what, error))?;
            done.dropped.push(name);
        }
    }
    Ok(())
}

/// Removes the sums that were replaced, and lets reports read the others from an index alone.
/// PostgreSQL does so by itself, but later.
fn vacuum(client: &mut Client) -> Result<()> {
    let sql = "VACUUM (ANALYZE) fleet.leak_day, fleet.leak_hour, fleet.leak_top";
    execute_outside(client, "remove the sums that were replaced", sql)
}

/// Executes a statement that cannot be part of a transaction, so that the session is checked
/// before.
fn execute_outside(client: &mut Client, what: &str, sql: &str) -> Result<()> {
    drop(begin(client, what)?);
    client
        .batch_execute("SET statement_timeout = '1h'")
        .and_then(|()| client.batch_execute(sql))
        .map_err(|error| failed(what, error))
}

/// Rebuilds indexes that are half empty, except for those of current weeks, which would not stay
/// full. Each of many hosts adds rows behind its own last one, and PostgreSQL splits a full page in
/// the middle. Other statements do not wait for a rebuild.
fn rebuild(client: &mut Client, now: DateTime<Utc>, done: &mut Maintenance) -> Result<()> {
    let what = "rebuild an index";
    let indexes = begin(client, what)?.query(include_str!("schema/index_list.sql"), &[]);
    for row in indexes.map_err(|error| failed(what, error))? {
        let (name, is_valid): (String, bool) = (row.get(0), row.get(1));
        let week = name.strip_suffix("_pkey").and_then(monday);
        let goes_on = week.is_some_and(|monday| midnight(monday + Days::new(14)) > now.into());
        let index = format!("fleet.{}", quoted(&name));
        let sql = if !is_valid {
            // Left by an earlier run that was interrupted.
            format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")
        } else if goes_on {
            continue;
        } else {
            format!("REINDEX INDEX CONCURRENTLY {index}")
        };
        execute_outside(client, what, &sql)?;
        if is_valid {
            done.rebuilt.push(name);
        }
    }
    Ok(())
}

/// Returns the Monday of the week whose partition has this name.
fn monday(partition: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(partition.strip_prefix("ended_")?, "%Y%m%d").ok()
}

fn partitions(client: &mut Client) -> Result<Vec<String>> {
    let what = "list the partitions";
    let rows = begin(client, what)?.query(include_str!("schema/partition_list.sql"), &[]);
    let rows = rows.map_err(|error| failed(what, error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn recompute(
    transaction: &mut Transaction<'_>,
    stream: i32,
    found_at: &[DateTime<Utc>],
) -> Result<(), postgres::Error> {
    leak_sums::recompute(stream, found_at.iter().copied(), |sql, parameters| {
        transaction.execute(sql, parameters)
    })
}

fn midnight(day: NaiveDate) -> SystemTime {
    day.and_time(NaiveTime::MIN).and_utc().into()
}

/// Gives up a host: its processes that were live at its last batch count as lost, and it no longer
/// counts as silent. Its history stays. If it ships again, it is shipped from the start, and is an
/// ordinary host again.
///
/// # Errors
///
/// Not found if the fleet has no such host; if the database cannot be reached, or the user does not
/// own the schema.
pub fn forget(address: &Address, host: &str) -> Result<Forgotten> {
    let what = |error| failed("forget the host", error);
    let mut client = schema::connect_as_owner(address)?;
    let mut transaction = begin(&mut client, "forget the host")?;
    schema::meta(&mut transaction)?;
    let streams =
        transaction.query(include_str!("statements/forget_streams.sql"), &[&host]).map_err(what)?;
    if streams.is_empty() {
        return Err(no_host(host));
    }
    for row in &streams {
        let stream: i32 = row.get(0);
        // A shipper that still runs loses its compare and swap, and begins again.
        let mark = Uuid::new_v4();
        transaction
            .execute(include_str!("statements/forget_stream.sql"), &[&stream, &mark])
            .map_err(what)?;
    }
    let processes =
        transaction.execute(include_str!("statements/forget_live.sql"), &[&host]).map_err(what)?;
    let leaks =
        transaction.query(include_str!("statements/forget_leaks.sql"), &[&host]).map_err(what)?;
    let mut touched: BTreeMap<i32, Vec<DateTime<Utc>>> = BTreeMap::new();
    for row in &leaks {
        touched.entry(row.get(0)).or_default().push(row.get(1));
    }
    for (stream, found_at) in touched {
        recompute(&mut transaction, stream, &found_at).map_err(what)?;
    }
    transaction.commit().map_err(what)?;
    Ok(Forgotten { ledgers: streams.len() as u64, processes, leaks: leaks.len() as u64 })
}
