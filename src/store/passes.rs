//! Passes: proof that the checker ran.

use std::time::Duration;

use rusqlite::{Connection, Row, named_params};

use super::{Store, row_reader::Cells, transaction::Transaction};
use crate::{
    error::Result,
    model::{InstanceId, Millis, PassKind, PassRecord, PassSummary},
    redact::mask_text,
};

/// Each kind by itself, so that the index leads to the window; a gap is from the start of one to that of the next.
pub(super) const SUMMARIES: &str =
    "SELECT kind, count(*), sum(failed), min(started_at), max(started_at), coalesce(max(gap), 0)
     FROM (SELECT kind, started_at, error IS NOT NULL AS failed,
             started_at - lag(started_at) OVER (PARTITION BY kind ORDER BY started_at) AS gap
           FROM pass INDEXED BY pass_kind
           WHERE kind IN ('health', 'orphan') AND started_at >= ?1)
     GROUP BY kind ORDER BY kind";

impl Store {
    /// Records a pass that had no rows to settle.
    pub(crate) fn record_pass(&self, by: InstanceId, pass: &PassRecord) -> Result<()> {
        self.write("record a pass", |tx| insert(tx, by, pass).map(|_| ()))?;
        self.meter().passed(pass);
        Ok(())
    }

    /// Returns the newest pass of each kind.
    pub(crate) fn last_passes(&self) -> Result<Vec<PassRecord>> {
        self.read("read the last passes", |connection| {
            connection
                .prepare_cached(
                    "SELECT kind, started_at, duration_us, checked, found, ended, survived, unknown,
                       error
                     FROM pass
                     WHERE id IN (
                       (SELECT id FROM pass WHERE kind = 'health'
                        ORDER BY started_at DESC, id DESC LIMIT 1),
                       (SELECT id FROM pass WHERE kind = 'orphan'
                        ORDER BY started_at DESC, id DESC LIMIT 1)
                     )
                     ORDER BY started_at DESC, id DESC",
                )?
                .query_map([], pass)?
                .collect()
        })
    }

    /// Returns the passes of each kind that started since, counted.
    pub(crate) fn pass_summaries(&self, since: Option<Millis>) -> Result<Vec<PassSummary>> {
        let since = since.map_or(i64::MIN, |since| since.0);
        self.read("count the passes", |connection| summaries(connection, since))
    }

    /// Returns passes that started since, newest first.
    pub(crate) fn passes(&self, since: Option<Millis>, limit: u32) -> Result<Vec<PassRecord>> {
        let since = since.map_or(i64::MIN, |since| since.0);
        self.read("read the passes", |connection| {
            // In the order of recording, which needs no sorting and equals the order of starting except for concurrent passes.
            connection
                .prepare_cached(
                    "SELECT kind, started_at, duration_us, checked, found, ended, survived, unknown,
                       error
                     FROM pass WHERE started_at >= ?1 ORDER BY id DESC LIMIT ?2",
                )?
                .query_map((since, limit), pass)?
                .collect()
        })
    }
}

pub(super) fn summaries(connection: &Connection, since: i64) -> rusqlite::Result<Vec<PassSummary>> {
    connection.prepare_cached(SUMMARIES)?.query_map([since], summary)?.collect()
}

/// Runs within the caller's transaction that settles its rows; returns the row number for its leaks.
pub(super) fn insert(
    tx: &Transaction<'_>,
    by: InstanceId,
    pass: &PassRecord,
) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "INSERT INTO pass (instance, kind, started_at, duration_us, checked, found, ended, survived,
           unknown, error)
         VALUES (:by, :kind, :started_at, :duration, :checked, :found, :ended, :survived,
           :unknown, :error)",
    )?
    .execute(named_params! {
        ":by": by.0,
        ":kind": pass.kind.as_str(),
        ":started_at": pass.started_at.0,
        ":duration": i64::try_from(pass.duration.as_micros()).unwrap_or(i64::MAX),
        ":checked": pass.checked.cast_signed(),
        ":found": pass.found.cast_signed(),
        ":ended": pass.ended.cast_signed(),
        ":survived": pass.survived.cast_signed(),
        ":unknown": pass.unknown.cast_signed(),
        ":error": pass.error.as_deref().map(mask_text),
    })?;
    Ok(tx.last_insert_rowid())
}

fn pass(row: &Row<'_>) -> rusqlite::Result<PassRecord> {
    let mut cells = Cells::of(row);
    Ok(PassRecord {
        kind: cells.parse(PassKind::parse)?,
        started_at: cells.time()?,
        duration: Duration::from_micros(cells.u64()?),
        checked: cells.u64()?,
        found: cells.u64()?,
        ended: cells.u64()?,
        survived: cells.u64()?,
        unknown: cells.u64()?,
        error: cells.take()?,
    })
}

fn summary(row: &Row<'_>) -> rusqlite::Result<PassSummary> {
    let mut cells = Cells::of(row);
    Ok(PassSummary {
        kind: cells.parse(PassKind::parse)?,
        passes: cells.u64()?,
        failed: cells.u64()?,
        first_at: cells.time()?,
        last_at: cells.time()?,
        longest_gap: cells.millis()?,
    })
}
