//! Maintenance by the owner of a fleet's database: partitions, retention, and hosts that are gone.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use postgres::{Client, Transaction};
use uuid::Uuid;

use super::{
    connection::{Address, failed, quoted},
    leak_sums,
    reader::no_host,
    schema::{self, partition, weeks},
};
use crate::error::Result;

/// Sums are recomputed for this many days: longer than a leak usually stays open.
const DAYS_OF_SUMS: u64 = 14;

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

/// Creates the partitions of the coming weeks, deletes history that is older than the fleet keeps, recomputes the sums of the last
/// two weeks, and rebuilds indexes that are half empty. Run it once a day, as the owner.
///
/// # Errors
///
/// If the database cannot be reached, or the user does not own the schema.
pub fn maintain(address: &Address) -> Result<Maintenance> {
    let mut client = schema::connect_as_owner(address)?;
    let meta = schema::meta(&mut client)?;
    let mut done = Maintenance::default();
    let now = schema::now(&mut client)?;
    let oldest = SystemTime::from(now).checked_sub(meta.keep).unwrap_or(SystemTime::UNIX_EPOCH);
    // Other statements queue behind one that waits for the lock of a table: it fails instead, and can be run again.
    let lock = "SET lock_timeout = '5s'; SET statement_timeout = 0";
    client.batch_execute(lock).map_err(|error| failed("maintain the fleet", error))?;
    if meta.engine.has_partitions() {
        create(&mut client, now, &meta, &mut done)?;
        drop_old(&mut client, oldest, &mut done)?;
    }
    // The locks of rows are waited for: no other statement queues behind this one, and a shipper that hangs holds them only
    // briefly.
    client
        .batch_execute("RESET lock_timeout")
        .map_err(|error| failed("maintain the fleet", error))?;
    let day = DateTime::<Utc>::from(oldest).date_naive();
    for (statement, by_day) in [
        (include_str!("statements/expire_ended.sql"), false),
        (include_str!("statements/expire_leak.sql"), false),
        (include_str!("statements/expire_leak_hour.sql"), false),
        (include_str!("statements/expire_leak_day.sql"), true),
        (include_str!("statements/expire_leak_top.sql"), true),
        (include_str!("statements/expire_pass_day.sql"), true),
    ] {
        let deleted = if by_day {
            client.execute(statement, &[&day])
        } else {
            client.execute(statement, &[&oldest])
        };
        done.deleted += deleted.map_err(|error| failed("delete old history", error))?;
    }
    let hours = (0..DAYS_OF_SUMS * 24).map(|back| now - Duration::from_hours(back));
    let hours: Vec<DateTime<Utc>> = hours.collect();
    let streams = client.query(include_str!("statements/streams.sql"), &[]);
    for row in streams.map_err(|error| failed("read the streams", error))? {
        let what = |error| failed("recompute the sums", error);
        let stream: i32 = row.get(0);
        let mut transaction = client.transaction().map_err(what)?;
        // Its shipper locks the row first as well: otherwise both would insert the same sums.
        transaction
            .execute(include_str!("statements/lock_stream.sql"), &[&stream])
            .map_err(what)?;
        recompute(&mut transaction, stream, &hours).map_err(what)?;
        transaction.commit().map_err(what)?;
        done.streams += 1;
    }
    if meta.engine.has_partitions() {
        rebuild(&mut client, now, &mut done)?;
    }
    let done_at = client.execute(include_str!("statements/maintained.sql"), &[]);
    done_at.map_err(|error| failed("maintain the fleet", error))?;
    Ok(done)
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
        // Rows that are already in the default partition cannot be moved, and stay there.
        let range = [monday, monday + Days::new(7)].map(midnight);
        let found =
            client.query_one(include_str!("schema/partition_default.sql"), &[&range[0], &range[1]]);
        if found.map_err(|error| failed(what, error))?.get::<_, i64>(0) == 0 {
            client.batch_execute(&partition(monday)).map_err(|error| failed(what, error))?;
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
        // A process that has run for long ended much later than it had started.
        let recent = include_str!("schema/partition_recent.sql").replace("{partition}", &name);
        let found = client.query_one(&recent, &[&oldest]).map_err(|error| failed(what, error))?;
        if found.get::<_, i64>(0) == 0 {
            let dropped = client.batch_execute(&format!("DROP TABLE fleet.{name}"));
            dropped.map_err(|error| failed(what, error))?;
            done.dropped.push(name);
        }
    }
    Ok(())
}

/// Rebuilds indexes that are half empty, except for those of current weeks, which would not stay full. Each of many hosts adds rows
/// behind its own last one, and PostgreSQL splits a full page in the middle. Other statements do not wait for a rebuild.
fn rebuild(client: &mut Client, now: DateTime<Utc>, done: &mut Maintenance) -> Result<()> {
    let what = |error| failed("rebuild an index", error);
    client.batch_execute("SET statement_timeout = '1h'").map_err(what)?;
    for row in client.query(include_str!("schema/index_list.sql"), &[]).map_err(what)? {
        let (name, is_valid): (String, bool) = (row.get(0), row.get(1));
        let week = name.strip_suffix("_pkey").and_then(monday);
        let goes_on = week.is_some_and(|monday| midnight(monday + Days::new(14)) > now.into());
        let index = format!("fleet.{}", quoted(&name));
        if !is_valid {
            // Left by an earlier run that was interrupted.
            client
                .batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"))
                .map_err(what)?;
        } else if !goes_on {
            client.batch_execute(&format!("REINDEX INDEX CONCURRENTLY {index}")).map_err(what)?;
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
    let rows = client.query(include_str!("schema/partition_list.sql"), &[]);
    let rows = rows.map_err(|error| failed("list the partitions", error))?;
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

/// Gives up a host: its processes that were live at its last batch count as lost, and it no longer counts as silent. Its history
/// stays. If it ships again, it is shipped from the start, and is an ordinary host again.
///
/// # Errors
///
/// Not found if the fleet has no such host; if the database cannot be reached, or the user does not own the schema.
pub fn forget(address: &Address, host: &str) -> Result<Forgotten> {
    let what = |error| failed("forget the host", error);
    let mut client = schema::connect_as_owner(address)?;
    schema::meta(&mut client)?;
    let mut transaction = client.transaction().map_err(what)?;
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
