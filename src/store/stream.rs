//! Reads the next batch of a ledger for a receiver that follows it.
//!
//! There is no change feed, so a spawn costs nothing extra. New rows are found by their numbers,
//! live rows by the index of live rows, and rows that are no longer live by the numbers that the
//! receiver has noted. Each batch is one read transaction, which is over before anything is sent,
//! so a network that hangs holds no snapshot.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::{Store, leaks, migration::Schema, process};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, LostRow, OpenProcess, Outcome, Position, ProcessId, ProcessRecord, StreamLeak,
        StreamProcess, print_of_leak, print_of_process,
    },
};

/// The bytes of a row without its texts.
const ROW_BYTES: usize = 256;

/// The limit of a batch: a larger one would keep a receiver waiting for too long.
pub(crate) const BATCH: BatchLimit = BatchLimit { rows: 2_000, bytes: 1 << 20 };

/// How much fits into a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimit {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl BatchLimit {
    /// Reserves room for one more row; returns `false` if there is none left.
    fn take(&mut self, texts: usize) -> bool {
        let fits = self.rows > 0 && self.bytes > 0;
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(ROW_BYTES + texts);
        fits
    }
}

impl Store {
    /// Returns the uuid of this ledger, and the position at which a receiver that has nothing of it
    /// begins: after the rows of the original, if it is a copy.
    ///
    /// # Errors
    ///
    /// Unsupported if the ledger has no uuid; other errors if it cannot be read.
    pub(crate) fn stream_start(&self) -> Result<(String, Position)> {
        if self.schema() < Schema::LEDGER {
            let message = format!(
                "the ledger `{}` has schema {}, and only one of schema {} or newer can be shipped: start the program that \
                 owns it in this version, or repeat this with --migrate",
                self.path().display(),
                self.schema(),
                Schema::LEDGER
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        self.read("read where the ledger begins", |connection| {
            let sql = "SELECT uuid, process_floor, leak_floor FROM ledger WHERE one = 1";
            connection.query_one(sql, [], |row| {
                let start =
                    Position { process: row.get(1)?, leak: row.get(2)?, ..Position::default() };
                Ok((row.get(0)?, start))
            })
        })
    }

    /// Reports whether the receiver's last rows are those of this ledger. A row that was pruned
    /// since counts as the same if there are later rows, since the last row of each table is never
    /// pruned.
    pub(crate) fn continues(&self, position: &Position) -> Result<bool> {
        self.read("compare with what was shipped", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let (process, leak) = prints_at(&snapshot, self.schema(), position)?;
            let is_same = |table: &str, id: i64, shipped: Option<u32>, found: Option<u32>| {
                if found.is_some() || shipped.is_none() {
                    return Ok(shipped.is_none() || shipped == found);
                }
                let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id > ?1)");
                snapshot.query_one(&sql, [id], |row| row.get::<_, bool>(0))
            };
            Ok(is_same("process", position.process, position.process_print, process)?
                && is_same("leak", position.leak, position.leak_print, leak)?)
        })
    }

    /// Reports whether the ledger has the receiver's last rows.
    pub(crate) fn has_last_rows(&self, position: &Position) -> Result<bool> {
        self.read("compare with what was shipped", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let (process, leak) = prints_at(&snapshot, self.schema(), position)?;
            let is_same = |shipped: Option<u32>, found| shipped.is_none() || shipped == found;
            Ok(is_same(position.process_print, process) && is_same(position.leak_print, leak))
        })
    }

    /// Returns the rows that a receiver lacks, as many as fit.
    pub(crate) fn next_batch(&self, position: &Position, room: BatchLimit) -> Result<Batch> {
        self.read("read a batch to ship", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let batch = Batch {
                process: position.process,
                leak: position.leak,
                process_print: position.process_print,
                leak_print: position.leak_print,
                ..Batch::default()
            };
            let mut reading =
                Reading { connection: &snapshot, schema: self.schema(), position, room, batch };
            // In this order, so that a row whose number belongs to another process now is reported
            // as lost before the number is used again.
            let fits = reading.open()? && reading.fresh()? && reading.leaks()?;
            reading.batch.more = !fits;
            Ok(reading.batch)
        })
    }
}

/// Returns the fingerprints of the rows with the largest numbers that a receiver has.
fn prints_at(
    connection: &Connection,
    schema: Schema,
    position: &Position,
) -> rusqlite::Result<(Option<u32>, Option<u32>)> {
    let process = process::one(connection, schema, ProcessId(position.process)).optional()?;
    let leak = leaks::numbered(connection, schema, "WHERE l.id = ?1", [position.leak])?.pop();
    Ok((process.as_ref().map(print_of_process), leak.map(|(_, row)| print_of_leak(&row))))
}

/// A batch that is being read. Each step returns whether all its rows fitted.
struct Reading<'a> {
    connection: &'a Connection,
    schema: Schema,
    position: &'a Position,
    room: BatchLimit,
    batch: Batch,
}

impl Reading<'_> {
    /// Reads the changes to the processes that had not ended.
    fn open(&mut self) -> rusqlite::Result<bool> {
        let live = self.live()?;
        for (id, open) in &self.position.open {
            if live.get(id).is_some_and(|row| print_of_process(row) == open.print) {
                continue;
            }
            let row = process::one(self.connection, self.schema, ProcessId(*id)).optional()?;
            let row = row.filter(|row| print_of_process(row) == open.print);
            match row {
                // The receiver was set back, so the row comes with the new rows.
                Some(_) if *id > self.position.process => {}
                Some(row) => {
                    if !self.add(row) {
                        return Ok(false);
                    }
                }
                None => {
                    if !self.room.take(0) {
                        return Ok(false);
                    }
                    self.batch.lost.push(LostRow { id: *id, print: open.print });
                }
            }
        }
        for (id, row) in live {
            let known = self.position.open.get(&id);
            if known != Some(&OpenProcess::of(&row)) && !self.add(row) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the processes that have not ended among those that the receiver has.
    fn live(&self) -> rusqlite::Result<BTreeMap<i64, ProcessRecord>> {
        let mut rows = self.connection.prepare_cached(&live(self.schema))?;
        let rows = rows.query_map([self.floor()?, self.position.process], process::read)?;
        rows.map(|row| row.map(|row| (row.id.0, row))).collect()
    }

    /// Returns the number up to which processes belong to another ledger.
    fn floor(&self) -> rusqlite::Result<i64> {
        let sql = "SELECT process_floor FROM ledger WHERE one = 1";
        self.connection.prepare_cached(sql)?.query_one([], |row| row.get(0))
    }

    /// Reads the processes with larger numbers.
    fn fresh(&mut self) -> rusqlite::Result<bool> {
        let after = self.position.process;
        let mut statement = self.connection.prepare_cached(&fresh(self.schema))?;
        for row in statement.query_map([after], process::read)? {
            let row = row?;
            let (id, print) = (row.id.0, print_of_process(&row));
            if !self.add(row) {
                return Ok(false);
            }
            self.batch.gap += missing(self.position.counted, after, self.batch.process, id);
            (self.batch.process, self.batch.process_print) = (id, Some(print));
        }
        Ok(true)
    }

    fn add(&mut self, row: ProcessRecord) -> bool {
        let texts = row.spec.command.iter().map(String::len).sum::<usize>()
            + row.spec.cwd.as_ref().map_or(0, String::len)
            + row.last_error.as_ref().map_or(0, String::len);
        let fits = self.room.take(texts);
        if fits {
            let process = StreamProcess { print: print_of_process(&row), row };
            let has_ended = process.row.life.end().is_some();
            let list = if has_ended { &mut self.batch.ended } else { &mut self.batch.live };
            list.push(process);
        }
        fits
    }

    /// Reads the leaks that have changed, and those with larger numbers.
    fn leaks(&mut self) -> rusqlite::Result<bool> {
        for (&id, &print) in &self.position.open_leaks {
            let row = self.read_leaks("WHERE l.id = ?1 LIMIT ?2", id, 1)?.pop();
            match row.filter(|leak| leak.print == print) {
                Some(leak) if leak.row.outcome == Outcome::Survived => {}
                // The receiver was set back, so the row comes with the new rows.
                Some(_) if id > self.position.leak => {}
                Some(leak) => {
                    if !self.add_leak(leak) {
                        return Ok(false);
                    }
                }
                None => {
                    if !self.room.take(0) {
                        return Ok(false);
                    }
                    self.batch.lost_leaks.push(LostRow { id, print });
                }
            }
        }
        let most = self.room.rows + 1;
        let rest = "WHERE l.id > ?1 ORDER BY l.id LIMIT ?2";
        let after = self.position.leak;
        for leak in self.read_leaks(rest, after, most)? {
            let (id, print) = (leak.id, leak.print);
            if !self.add_leak(leak) {
                return Ok(false);
            }
            self.batch.leak_gap += missing(self.position.counted_leaks, after, self.batch.leak, id);
            (self.batch.leak, self.batch.leak_print) = (id, Some(print));
        }
        Ok(true)
    }

    fn read_leaks(&self, rest: &str, id: i64, most: usize) -> rusqlite::Result<Vec<StreamLeak>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let leaks = leaks::numbered(self.connection, self.schema, rest, (id, most))?;
        let print = |(id, row)| StreamLeak { id, print: print_of_leak(&row), row };
        Ok(leaks.into_iter().map(print).collect())
    }

    fn add_leak(&mut self, leak: StreamLeak) -> bool {
        let texts = leak.row.command.iter().map(String::len).sum::<usize>()
            + leak.row.rule.len()
            + leak.row.evidence.len();
        let fits = self.room.take(texts);
        if fits {
            self.batch.leaks.push(leak);
        }
        fits
    }
}

/// Returns how many numbers are missing before `id`, in a batch that began after the number `after`
/// and has reached `last`.
fn missing(counted: Option<i64>, after: i64, last: i64, id: i64) -> u64 {
    let known = match counted {
        // The oldest row of all. Rows before it were pruned before there was a receiver.
        None if last == after => id - 1,
        counted => last.max(counted.unwrap_or(last)),
    };
    u64::try_from(id - 1 - known).unwrap_or(0)
}

// Named, so that a test can ask SQLite for their query plans.
pub(super) fn fresh(schema: Schema) -> String {
    process::select(schema, "process AS p", "WHERE p.id > ?1 ORDER BY p.id")
}

pub(super) fn live(schema: Schema) -> String {
    let from = "process AS p INDEXED BY process_live_owner";
    process::select(schema, from, "WHERE p.state <> 'ended' AND p.id > ?1 AND p.id <= ?2")
}
