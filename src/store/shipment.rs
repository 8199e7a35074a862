//! Determines how much of this ledger was shipped to fleets, and which history must be kept for
//! them.
//!
//! A shipper writes a row of `shipment` after each acknowledgement of its fleet. Row numbers are
//! dense and are assigned in the order of the commits, so a number shows which rows a fleet has. It
//! does not show which ends the fleet has: a process that was shipped while it was running may have
//! ended since. So an old row may be deleted if its number and that of its last leak were shipped,
//! and it ended well before the last batch that left nothing to ship.
//!
//! A shipment that was not acknowledged for its `give_up_ms` no longer counts, and none counts if
//! the ledger exceeds its size limit: a fleet that never comes back must not fill the disk. Rows
//! that are deleted unshipped count as a gap, which the shipper derives from the missing numbers.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{Store, cell::RowReader, migration::Schema};
use crate::{
    error::Result,
    model::{Millis, Shipment},
};

/// A batch certainly contains an end that is this much older: the clock may have been set back in
/// between, and an end may be recorded late.
const END_MARGIN: Duration = Duration::from_hours(1);
/// A fleet has sums of passes by day, which are computed anew until the day is over.
const PASS_MARGIN: Duration = Duration::from_hours(25);

/// What happens to old history that a fleet does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshipped {
    /// It is kept until the shipment is given up.
    Keep,
    /// It is deleted like any other history.
    Delete,
}

/// The history that every fleet has, and that may therefore be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shipped {
    /// The largest number of a process.
    pub(super) process: i64,
    /// The largest number of a leak.
    pub(super) leak: i64,
    /// Ends before this time.
    pub(super) ends: Millis,
    /// Passes that started before this time.
    pub(super) passes: Millis,
}

impl Shipped {
    /// All history: there is no fleet, or it does not count.
    const ALL: Self = Self {
        process: i64::MAX,
        leak: i64::MAX,
        ends: Millis(i64::MAX),
        passes: Millis(i64::MAX),
    };

    /// Returns the history that may be deleted now.
    pub(super) fn now(
        connection: &Connection,
        schema: Schema,
        unshipped: Unshipped,
    ) -> rusqlite::Result<Self> {
        if unshipped == Unshipped::Delete || schema < Schema::SHIPMENT {
            return Ok(Self::ALL);
        }
        let slowest = connection
            .prepare_cached(
                "SELECT min(process), min(leak), min(shipped_at) FROM shipment
                 WHERE acked_at + give_up_ms > ?1 HAVING count(*) > 0",
            )?
            .query_one([Millis::now().0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        Ok(slowest.map_or(Self::ALL, |(process, leak, shipped_at)| Self {
            process,
            leak,
            ends: Millis(shipped_at).minus(END_MARGIN),
            passes: Millis(shipped_at).minus(PASS_MARGIN),
        }))
    }
}

impl Store {
    /// Returns the shipments, one for each fleet; none in a ledger of a schema without them.
    pub(crate) fn shipments(&self) -> Result<Vec<Shipment>> {
        if self.schema() < Schema::SHIPMENT {
            return Ok(Vec::new());
        }
        self.read("read the shipments", |connection| {
            let sql =
                "SELECT fleet, process, leak, acked_at, give_up_ms FROM shipment ORDER BY fleet";
            let mut shipments = connection.prepare_cached(sql)?;
            let shipments = shipments.query_map([], |row| {
                let mut reader = RowReader::of(row);
                Ok(Shipment {
                    fleet: reader.take()?,
                    process: reader.take()?,
                    leak: reader.take()?,
                    acked_at: reader.take()?,
                    give_up: reader.take()?,
                })
            })?;
            shipments.collect()
        })
    }
}
