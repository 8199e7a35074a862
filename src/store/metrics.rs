//! Figures of a whole ledger, computed from its indexes: live rows, and rows within the requested
//! window.

use std::time::Duration;

use rusqlite::Connection;

use super::{Store, cell::RowReader};
use crate::{
    error::Result,
    model::{EndCount, LeakCount, LedgerCounts, Millis, PassKind, State},
};

// Named constants, so that a test can ask SQLite for their query plans.
pub(super) const LIVE_BY_STATE: &str = "SELECT state, root IS NULL AS is_root, count(*)
     FROM process INDEXED BY process_live_owner WHERE state <> 'ended' GROUP BY state, is_root";
pub(super) const ENDS_SINCE: &str = "SELECT end_reason, count(*)
     FROM process INDEXED BY process_ended WHERE ended_at >= ?1 GROUP BY end_reason";
pub(super) const LEAKS_SINCE: &str = "SELECT kind, outcome, count(*),
       coalesce(sum(rss_bytes), 0), coalesce(sum(age_ms), 0)
     FROM leak INDEXED BY leak_found WHERE found_at >= ?1 GROUP BY kind, outcome";
pub(super) const PASSES_SINCE: &str = "SELECT kind, error IS NULL AS well, count(*)
     FROM pass INDEXED BY pass_kind
     WHERE kind IN ('health', 'orphan') AND started_at >= ?1 GROUP BY kind, well";
const SURVIVORS: &str = "SELECT count(*) FROM process INDEXED BY process_live_owner
     WHERE state <> 'ended' AND state = 'survived'";

impl Store {
    /// Returns the number of processes of all instances that could not be ended and still exist.
    pub(crate) fn survivors(&self) -> Result<u64> {
        self.read("count the survivors", |connection| {
            connection
                .prepare_cached(SURVIVORS)?
                .query_one([], |row| row.get(0).map(i64::cast_unsigned))
        })
    }

    /// Returns the counts of live rows, and of ends, leaks and passes since the given time, all at
    /// one moment.
    pub(crate) fn counts(&self, since: Millis) -> Result<LedgerCounts> {
        self.read("count the ledger's rows", |connection| {
            let moment = connection.unchecked_transaction()?;
            let mut counts = LedgerCounts {
                live: live(&moment)?,
                ends: ends(&moment, since)?,
                passes: passes(&moment, since)?,
                ..LedgerCounts::default()
            };
            leaks(&moment, since, &mut counts)?;
            Ok(counts)
        })
    }
}

fn live(connection: &Connection) -> rusqlite::Result<Vec<(State, bool, u64)>> {
    connection
        .prepare_cached(LIVE_BY_STATE)?
        .query_map([], |row| {
            let mut reader = RowReader::of(row);
            Ok((reader.take()?, reader.take()?, reader.take()?))
        })?
        .collect()
}

fn ends(connection: &Connection, since: Millis) -> rusqlite::Result<Vec<EndCount>> {
    connection
        .prepare_cached(ENDS_SINCE)?
        .query_map([since.0], |row| {
            let mut reader = RowReader::of(row);
            Ok(EndCount { reason: reader.take()?, count: reader.take()? })
        })?
        .collect()
}

fn leaks(
    connection: &Connection,
    since: Millis,
    counts: &mut LedgerCounts,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(LEAKS_SINCE)?;
    let mut rows = statement.query([since.0])?;
    while let Some(row) = rows.next()? {
        let mut reader = RowReader::of(row);
        counts.leaks.push(LeakCount {
            kind: reader.take()?,
            outcome: reader.take()?,
            count: reader.take()?,
        });
        counts.leaked_bytes += reader.take::<u64>()?;
        counts.leaked_time += reader.take::<Duration>()?;
    }
    Ok(())
}

fn passes(connection: &Connection, since: Millis) -> rusqlite::Result<Vec<(PassKind, bool, u64)>> {
    connection
        .prepare_cached(PASSES_SINCE)?
        .query_map([since.0], |row| {
            let mut reader = RowReader::of(row);
            Ok((reader.take()?, reader.take()?, reader.take()?))
        })?
        .collect()
}
