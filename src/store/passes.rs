//! Passes: the record of the checks that were made.

use std::time::Duration;

use rusqlite::{Connection, Row};

use super::{
    Store,
    cell::RowReader,
    migration::Schema,
    table::{self, table},
    transaction::Transaction,
};
use crate::{
    error::Result,
    model::{InstanceId, Millis, PassRecord, PassSummary},
    redact::mask_text,
};

table! {
    "pass",
    insert(pass: &PassRecord, instance => InstanceId),
    read(() => ()) -> PassRecord,
    {
        kind = pass.kind;
        started_at = pass.started_at;
        duration_us = u64::try_from(pass.duration.as_micros()).unwrap_or(u64::MAX);
        checked = pass.checked;
        found = pass.found;
        ended = pass.ended;
        survived = pass.survived;
        unknown = pass.unknown;
        error = pass.error.as_deref().map(mask_text);
    },
    unread {
        instance = instance;
    },
    PassRecord {
        kind,
        started_at,
        duration: Duration::from_micros(duration_us),
        checked,
        found,
        ended,
        survived,
        unknown,
        error,
    }
}

/// Returns the statement that selects passes `s`. `from` is the text after FROM.
fn select(schema: Schema, from: &str) -> String {
    format!("SELECT {} FROM pass AS s {from}", table::select("s", schema, COLUMNS))
}

/// Queries each kind by itself, so that the index leads to the window. A gap is the time between
/// the starts of two consecutive passes.
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
        self.counters().passed(pass);
        Ok(())
    }

    /// Returns the newest pass of each kind.
    pub(crate) fn last_passes(&self) -> Result<Vec<PassRecord>> {
        self.read("read the last passes", |connection| {
            let newest = select(
                self.schema(),
                "WHERE id IN (
                   (SELECT id FROM pass WHERE kind = 'health'
                    ORDER BY started_at DESC, id DESC LIMIT 1),
                   (SELECT id FROM pass WHERE kind = 'orphan'
                    ORDER BY started_at DESC, id DESC LIMIT 1)
                 )
                 ORDER BY started_at DESC, id DESC",
            );
            connection.prepare_cached(&newest)?.query_map([], pass)?.collect()
        })
    }

    /// Returns the number of passes of each kind that started since the given time.
    pub(crate) fn pass_summaries(&self, since: Option<Millis>) -> Result<Vec<PassSummary>> {
        let since = since.map_or(i64::MIN, |since| since.0);
        self.read("count the passes", |connection| summaries(connection, since))
    }

    /// Returns passes that started since the given time, newest first.
    pub(crate) fn passes(&self, since: Option<Millis>, limit: u32) -> Result<Vec<PassRecord>> {
        let since = since.map_or(i64::MIN, |since| since.0);
        self.read("read the passes", |connection| {
            // In the order of recording, which needs no sorting, and which equals the order of
            // starting except for concurrent passes.
            let sql = select(self.schema(), "WHERE started_at >= ?1 ORDER BY id DESC LIMIT ?2");
            connection.prepare_cached(&sql)?.query_map((since, limit), pass)?.collect()
        })
    }
}

pub(super) fn summaries(connection: &Connection, since: i64) -> rusqlite::Result<Vec<PassSummary>> {
    connection.prepare_cached(SUMMARIES)?.query_map([since], summary)?.collect()
}

/// Records a pass within the transaction that settles its rows; returns the row number for its
/// leaks.
pub(super) fn insert(
    tx: &Transaction<'_>,
    by: InstanceId,
    pass: &PassRecord,
) -> rusqlite::Result<i64> {
    insert_row(tx, pass, by)
}

fn pass(row: &Row<'_>) -> rusqlite::Result<PassRecord> {
    read_row(&mut RowReader::of(row), ())
}

fn summary(row: &Row<'_>) -> rusqlite::Result<PassSummary> {
    let mut reader = RowReader::of(row);
    Ok(PassSummary {
        kind: reader.take()?,
        passes: reader.take()?,
        failed: reader.take()?,
        first_at: reader.take()?,
        last_at: reader.take()?,
        longest_gap: reader.take()?,
    })
}
