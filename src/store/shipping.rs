//! The data that a fleet's shipper reads from its ledger and writes to it, besides the batches
//! (`stream`).
//!
//! It writes two things: up to where the fleet has acknowledged the ledger, and that the ledger is
//! a copy of another one.

use std::{
    fs::File,
    io::Read,
    time::{Duration, SystemTime},
};

use rusqlite::OptionalExtension;
use rustix::fs::{FlockOperation, OFlags, flock};
use uuid::Uuid;

use super::{Store, cell::RowReader, cell::hex, migration::Schema, setup};
use crate::{
    error::{Error, Kind, Result},
    model::{Acknowledged, Millis, PassDay, millis},
    sys::file_lock::open_plain,
};

const DAY_MS: i64 = 86_400_000;
/// A lock file that is being created has no permissions yet.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The maximum length of an error that is shown.
const LONGEST_ERROR: u64 = 4096;

/// The days of the passes after number `?1`, each day as a whole. The first gap of a day begins at
/// the last pass of the day before.
const PASS_DAYS: &str =
    "WITH touched (day) AS MATERIALIZED (SELECT DISTINCT started_at / 86400000 FROM pass WHERE id > ?1)
     SELECT day, kind, count(*), sum(failed), coalesce(max(gap), 0), max(started_at)
     FROM (SELECT started_at / 86400000 AS day, kind, started_at, error IS NOT NULL AS failed,
             started_at - lag(started_at) OVER (PARTITION BY kind ORDER BY started_at) AS gap
           FROM pass INDEXED BY pass_kind
           WHERE kind IN ('health', 'orphan') AND started_at >= (SELECT (min(day) - 1) * 86400000 FROM touched))
     WHERE day IN (SELECT day FROM touched)
     GROUP BY day, kind";

impl Store {
    /// Fails if the ledger is of a schema without shipments. A shipper migrates nothing: the
    /// program that owns the ledger may be of an older version, and must be able to start again.
    pub(crate) fn check_shippable(&self) -> Result<()> {
        if self.schema() >= Schema::SHIPMENT {
            return Ok(());
        }
        let message = format!(
            "the ledger `{}` has schema {}, and only one of schema {} or newer can be shipped to a fleet: update the program \
             that owns it, or repeat this with --migrate",
            self.path().display(),
            self.schema(),
            Schema::SHIPMENT
        );
        Err(Error::new(Kind::Unsupported, message))
    }

    /// Takes the lock that this ledger's only shipper holds, until the file is dropped; `None`
    /// while another shipper holds it.
    pub(crate) fn lock_for_shipping(&self) -> Result<Option<File>> {
        let path = self.beside("-ship.lock");
        let _acting = self.act_as_owner()?;
        let file =
            setup::open_lock(&path, self.owner_uid(), std::time::Instant::now() + LOCK_PATIENCE)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::os(format!("failed to lock `{}`", path.display()), error)),
        }
    }

    /// Returns the error that the last shipper left in the lock file; `None` if its last attempt
    /// succeeded, or there was none.
    pub(crate) fn last_ship_error(&self) -> Result<Option<String>> {
        let path = self.beside("-ship.lock");
        let _acting = self.act_as_owner()?;
        let mut text = Vec::new();
        match open_plain(&path, OFlags::RDONLY, self.owner_uid()) {
            Ok(file) => file.take(LONGEST_ERROR).read_to_end(&mut text).map_err(|error| {
                Error::os(format!("failed to read `{}`", path.display()), error)
            })?,
            Err(error) if error.is_not_found() => 0,
            Err(error) => return Err(error),
        };
        // The limit may cut a character in two.
        Ok(Some(String::from_utf8_lossy(&text).into_owned()).filter(|text| !text.is_empty()))
    }

    /// Returns the uuid of the ledger of which this one is a copy.
    pub(crate) fn forked_from(&self) -> Result<Option<Uuid>> {
        self.read("read where the ledger is from", |connection| {
            let sql = "SELECT forked_from FROM ledger WHERE one = 1";
            connection.query_one(sql, [], |row| RowReader::of(row).take())
        })
    }

    /// Returns the part of the ledger that a fleet has acknowledged.
    pub(crate) fn acknowledged(&self, fleet: Uuid) -> Result<Option<Acknowledged>> {
        self.read("read the shipment", |connection| {
            let sql = "SELECT mark, process, leak FROM shipment WHERE fleet = ?1";
            connection
                .prepare_cached(sql)?
                .query_one([hex(fleet)], |row| {
                    let mut reader = RowReader::of(row);
                    let (mark, process, leak) = (reader.take()?, reader.take()?, reader.take()?);
                    Ok(Acknowledged { mark, process, leak })
                })
                .optional()
        })
    }

    /// Returns the time before which everything was shipped to a fleet; `None` until the fleet has
    /// caught up once.
    pub(crate) fn shipped_until(&self, fleet: Uuid) -> Result<Option<SystemTime>> {
        self.read("read the shipment", |connection| {
            let sql = "SELECT nullif(shipped_at, 0) FROM shipment WHERE fleet = ?1";
            connection.query_one(sql, [hex(fleet)], |row| RowReader::of(row).take())
        })
    }

    /// Records the part of the ledger that a fleet has acknowledged. `shipped_at` is the time
    /// before which everything was shipped, if that has changed.
    pub(crate) fn acknowledge(
        &self,
        fleet: Uuid,
        acknowledged: Acknowledged,
        shipped_at: Option<Millis>,
        give_up: Duration,
    ) -> Result<()> {
        let Acknowledged { mark, process, leak } = acknowledged;
        self.write("record the shipment", |tx| {
            tx.prepare_cached(
                "INSERT INTO shipment (fleet, mark, process, leak, acked_at, shipped_at, give_up_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, coalesce(?6, 0), ?7)
                 ON CONFLICT (fleet) DO UPDATE SET mark = excluded.mark, process = excluded.process, leak = excluded.leak,
                   acked_at = excluded.acked_at, shipped_at = coalesce(?6, shipment.shipped_at),
                   give_up_ms = excluded.give_up_ms",
            )?
            .execute((
                hex(fleet),
                hex(mark),
                process,
                leak,
                Millis::now().0,
                shipped_at.map(|time| time.0),
                millis(give_up),
            ))
            .map(drop)
        })
    }

    /// Separates this ledger from the original of which it is a copy: rows that were not shipped
    /// before belong to a ledger with a new uuid. If several fleets have different rows, that
    /// begins with the first row that one of them lacks.
    pub(crate) fn fork(&self) -> Result<()> {
        self.write("separate the ledger from its original", |tx| {
            tx.execute(
                "UPDATE ledger SET forked_from = uuid, uuid = lower(hex(randomblob(16))),
                   process_floor = max(process_floor, coalesce((SELECT min(process) FROM shipment), 0)),
                   leak_floor = max(leak_floor, coalesce((SELECT min(leak) FROM shipment), 0))
                 WHERE one = 1",
                [],
            )
            .map(drop)
        })
    }

    /// Returns the numbers of the last process and the last leak.
    pub(crate) fn last_rows(&self) -> Result<(i64, i64)> {
        self.read("read the last rows", |connection| {
            let sql = "SELECT coalesce((SELECT max(id) FROM process), 0), coalesce((SELECT max(id) FROM leak), 0)";
            connection.query_one(sql, [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
    }

    /// Returns the number of the last pass, and the days of the passes after the number `after`.
    pub(crate) fn pass_days(&self, after: i64) -> Result<(i64, Vec<PassDay>)> {
        self.read("sum up the passes", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let last = snapshot
                .prepare_cached("SELECT coalesce(max(id), 0) FROM pass")?
                .query_one([], |row| row.get(0))?;
            let mut days = snapshot.prepare_cached(PASS_DAYS)?;
            let days = days.query_map([after], |row| {
                let mut reader = RowReader::of(row);
                Ok(PassDay {
                    start: Millis(reader.take::<i64>()?.saturating_mul(DAY_MS)),
                    kind: reader.take()?,
                    passes: reader.take()?,
                    failed: reader.take()?,
                    longest_gap_ms: reader.take()?,
                    last_at: reader.take()?,
                })
            })?;
            Ok((last, days.collect::<rusqlite::Result<_>>()?))
        })
    }

    /// Returns the number of the last pass whose day the fleet certainly has, judging by when it
    /// last had the whole ledger.
    pub(crate) fn passes_before(&self, fleet: Uuid) -> Result<i64> {
        self.read("look for passes to ship", |connection| {
            let sql = "SELECT coalesce(max(id), 0) FROM pass
                       WHERE started_at < (SELECT shipped_at - 2 * 86400000 FROM shipment WHERE fleet = ?1)";
            connection.query_one(sql, [hex(fleet)], |row| row.get(0))
        })
    }

    /// Returns how many rows were added after these numbers: processes, then leaks.
    pub(crate) fn rows_behind(&self, process: i64, leak: i64) -> Result<(u64, u64)> {
        self.read("count what is to be shipped", |connection| {
            let sql = "SELECT (SELECT count(*) FROM process WHERE id > ?1), (SELECT count(*) FROM leak WHERE id > ?2)";
            connection.query_one(sql, (process, leak), |row| {
                let mut reader = RowReader::of(row);
                Ok((reader.take()?, reader.take()?))
            })
        })
    }
}
