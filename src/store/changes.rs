//! Finds the rows that have ended, survived or leaked since a reader last read them.
//!
//! A table of changes would make every INSERT slower, so changes are derived from properties of the
//! ledger. There is one writer at a time, so row numbers rise in the order of the commits, and they
//! are dense except for pruned rows. `ended` is final, so a row that is no longer live has ended.
//! Neither `ended_at` nor `found_at` gives an order: an end may be recorded late, and the clock may
//! be set.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{Store, leaks, process};
use crate::{
    error::Result,
    model::{LedgerEvent, ProcessId, ProcessRecord, State},
};

/// The largest number of rows that one call reads from each table. It limits the memory of the
/// call, and how long it holds a snapshot of the WAL.
const BATCH: u32 = 1_000;
/// Covered by the partial index, except for the state, which is read from the row.
pub(super) const OPEN: &str = "SELECT id, state = 'survived' FROM process INDEXED BY process_live_owner WHERE state <> 'ended'";

/// The position up to which a reader has read.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// The largest row number of `process` that was read.
    process: i64,
    /// The largest row number of `leak` that was read.
    leak: i64,
    /// The rows up to the position that had not ended, and whether each was reported as a survivor.
    open: BTreeMap<i64, bool>,
}

impl Store {
    /// Returns the position after everything that is recorded now. Existing survivors count as
    /// reported.
    pub(crate) fn position(&self) -> Result<Position> {
        self.read("begin a subscription", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let open = open_rows(&snapshot)?;
            Ok(Position {
                process: last(&snapshot, "process")?,
                leak: last(&snapshot, "leak")?,
                open,
            })
        })
    }

    /// Returns what was recorded after the position, and advances the position: ends and survivors
    /// by row number, then leaks. Unless it returns nothing, there may be more.
    pub(crate) fn changes(&self, position: &mut Position) -> Result<Vec<LedgerEvent>> {
        loop {
            let before = position.process;
            let events = self.next_changes(position)?;
            // Live rows are no events, but may precede rows that are.
            if !events.is_empty() || position.process - before < i64::from(BATCH) {
                return Ok(events);
            }
        }
    }

    fn next_changes(&self, position: &mut Position) -> Result<Vec<LedgerEvent>> {
        let schema = self.schema();
        let (next, events) = self.read("read what has changed", |connection| {
            let mut next = position.clone();
            let snapshot = connection.unchecked_transaction()?;
            let (mut events, mut skipped) = (Vec::new(), 0);
            // 1. Rows that were live and no longer are.
            let open = open_rows(&snapshot)?;
            let gone = position.open.keys().filter(|id| !open.contains_key(id));
            for id in gone.take(BATCH as usize) {
                next.open.remove(id);
                match process::find(&snapshot, schema, ProcessId(*id))? {
                    Some(row) => events.push(LedgerEvent::Ended(Box::new(row))),
                    None => skipped += 1,
                }
            }
            // 2. New rows, some of which have already ended.
            let (fresh, missing) = rows_behind(&snapshot, schema, position.process)?;
            skipped += missing;
            for row in fresh {
                next.process = row.id.0;
                if row.life.end().is_some() {
                    events.push(LedgerEvent::Ended(Box::new(row)));
                } else {
                    next.open.insert(row.id.0, false);
                }
            }
            // 3. Rows that could not be ended.
            for (id, reported) in &mut next.open {
                let survived = open.get(id).copied().unwrap_or(*reported);
                if survived && !*reported {
                    let row = process::find(&snapshot, schema, ProcessId(*id))?;
                    let row = row.filter(|row| row.life.state() == State::Survived);
                    events.extend(row.map(|row| LedgerEvent::Survived(Box::new(row))));
                }
                *reported = survived;
            }
            // 4. Leaks.
            let found = leaks::behind(&snapshot, schema, position.leak, BATCH)?;
            if let Some((last, _)) = found.last() {
                skipped += (last - position.leak).unsigned_abs() - found.len() as u64;
                next.leak = *last;
            }
            events.extend(found.into_iter().map(|(_, leak)| LedgerEvent::Leaked(Box::new(leak))));
            if skipped > 0 {
                events.insert(0, LedgerEvent::Skipped(skipped));
            }
            Ok((next, events))
        })?;
        *position = next;
        Ok(events)
    }
}

fn last(connection: &Connection, table: &str) -> rusqlite::Result<i64> {
    let largest = format!("SELECT coalesce(max(id), 0) FROM {table}");
    connection.prepare_cached(&largest)?.query_one([], |row| row.get(0))
}

fn open_rows(connection: &Connection) -> rusqlite::Result<BTreeMap<i64, bool>> {
    let mut statement = connection.prepare_cached(OPEN)?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Returns the next rows, and how many row numbers between them are missing.
fn rows_behind(
    connection: &Connection,
    schema: super::Schema,
    after: i64,
) -> rusqlite::Result<(Vec<ProcessRecord>, u64)> {
    let sql = process::select(schema, "process AS p", "WHERE p.id > ?1 ORDER BY p.id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows: Vec<_> =
        statement.query_map((after, BATCH), process::read)?.collect::<rusqlite::Result<_>>()?;
    let numbers = rows.last().map_or(0, |last| (last.id.0 - after).unsigned_abs());
    let missing = numbers - rows.len() as u64;
    Ok((rows, missing))
}
