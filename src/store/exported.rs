//! Reads the rows that are exported, and tracks which of them have changed.
//!
//! The connection that writes notes each row of `process` that it changes, and SQLite's
//! `data_version` shows whether any other connection, of this process or another, has committed
//! since. As long as none has, only the noted rows can have changed, and only they are read. A row
//! whose change was rolled back is read needlessly.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Row};

use super::Store;
use crate::{
    error::Result,
    model::{ExportEntry, ExportRow, ExportUpdate, Millis, ProcessId},
};

/// How many changed rows are remembered. Beyond that all rows are read, which is faster than
/// reading each changed row.
const CHANGED_MAX: usize = 256;
/// How long to wait for the connection that writes before reading all rows on another one.
const PATIENCE: Duration = Duration::from_millis(5);

macro_rules! exported {
    ($index:literal, $rows:literal) => {
        concat!(
            "SELECT task_id, pid, started_at, id FROM process ",
            $index,
            " WHERE ",
            $rows,
            " state <> 'ended' AND root IS NULL AND task_id IS NOT NULL"
        )
    };
}
pub(super) const EXPORTED: &str = exported!("INDEXED BY process_live_owner", "");
const EXPORTED_ROW: &str = exported!("", "id = ?1 AND");

/// Rows that were changed and have not been read yet.
#[derive(Debug, Default)]
struct ChangedRows {
    rows: HashSet<i64>,
    /// Whether more rows than can be remembered were changed.
    overflowed: bool,
}

impl ChangedRows {
    fn add(&mut self, row: i64) {
        self.overflowed |= self.rows.len() == CHANGED_MAX && !self.rows.contains(&row);
        if !self.overflowed {
            self.rows.insert(row);
        }
    }
}

/// Follows the exported rows. There is at most one for each store.
#[derive(Debug)]
pub(crate) struct ExportReader {
    store: Store,
    changed: Arc<Mutex<ChangedRows>>,
    /// The version of the data at which the caller has all rows but the changed ones; `None` if it
    /// needs all rows.
    version: Option<i64>,
}

impl Store {
    /// Returns the rows that are exported, in no order.
    pub(crate) fn export_rows(&self) -> Result<Vec<ExportRow>> {
        self.read("list the exported processes", |connection| {
            connection.prepare_cached(EXPORTED)?.query_map([], row)?.collect()
        })
    }

    /// Returns the entries of the export: live roots that have a task, the longest-running first.
    pub(crate) fn export_entries(&self) -> Result<Vec<ExportEntry>> {
        let mut rows = self.export_rows()?;
        // They are almost in order, of which SQLite would take no advantage.
        rows.sort_by_key(|row| (row.started, row.id));
        Ok(rows.into_iter().map(|row| row.entry).collect())
    }

    /// Starts noting the rows that change.
    pub(crate) fn export_reader(&self) -> Result<ExportReader> {
        let changed = Arc::<Mutex<ChangedRows>>::default();
        let theirs = Arc::clone(&changed);
        let doing = "follow the exported processes";
        let note = move |_, _: &str, table: &str, row| {
            if table == "process" {
                lock(&theirs).add(row);
            }
        };
        self.writer(doing)?
            .update_hook(Some(note))
            .map_err(|error| super::failure::failed(self.path(), doing, error))?;
        Ok(ExportReader { store: self.clone(), changed, version: None })
    }
}

impl ExportReader {
    /// Returns the rows that may have changed since the last successful call; the first time, and
    /// after an error, all rows.
    pub(crate) fn update(&mut self) -> Result<ExportUpdate> {
        let known = self.version.take();
        let doing = "list the exported processes";
        // No transaction of this store is open while this connection is held.
        let changes = self.store.on_idle_writer(PATIENCE, doing, |connection| {
            let changed = std::mem::take(&mut *lock(&self.changed));
            let snapshot = connection.unchecked_transaction()?;
            let version: i64 =
                snapshot.prepare_cached("PRAGMA data_version")?.query_one([], |row| row.get(0))?;
            let is_same = known == Some(version) && !changed.overflowed;
            let rows = is_same.then(|| changed.rows.into_iter().map(|id| read(&snapshot, id)));
            let rows = rows.map(Iterator::collect::<rusqlite::Result<_>>).transpose()?;
            Ok((version, rows))
        })?;
        let Some((version, rows)) = changes else {
            return self.store.export_rows().map(ExportUpdate::All);
        };
        // Rows that are committed before all are read are also noted, or change the version, and
        // are read once more.
        let update = match rows {
            Some(rows) => ExportUpdate::Rows(rows),
            None => ExportUpdate::All(self.store.export_rows()?),
        };
        self.version = Some(version);
        Ok(update)
    }
}

fn read(connection: &Connection, id: i64) -> rusqlite::Result<(ProcessId, Option<ExportRow>)> {
    let found = connection.prepare_cached(EXPORTED_ROW)?.query_one([id], row).optional()?;
    Ok((ProcessId(id), found))
}

fn row(row: &Row<'_>) -> rusqlite::Result<ExportRow> {
    let started = Millis(row.get(2)?);
    let entry = ExportEntry {
        task_id: row.get(0)?,
        process_id: row.get(1)?,
        start_time: started.to_rfc3339(),
    };
    Ok(ExportRow { started, id: ProcessId(row.get(3)?), entry })
}

fn lock(changed: &Mutex<ChangedRows>) -> MutexGuard<'_, ChangedRows> {
    changed.lock().unwrap_or_else(PoisonError::into_inner)
}
