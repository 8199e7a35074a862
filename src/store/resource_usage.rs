//! Memory and CPU time of live processes, as a health pass observed them.

use rusqlite::{Connection, OptionalExtension};

use super::Store;
use crate::{
    error::Result,
    model::{CPU_STEP, Sighting, millis},
};

impl Store {
    /// Records the largest memory and the latest CPU time; returns how many rows changed.
    ///
    /// The changes are first determined by a read, which does not block a writer. Usually there are
    /// none, and nothing is written.
    pub(crate) fn observe(&self, sightings: &[Sighting]) -> Result<u64> {
        let changed = self.read("compare the observations", |connection| {
            let mut changed = Vec::new();
            for sighting in sightings {
                if has_changed(connection, sighting)? {
                    changed.push(sighting);
                }
            }
            Ok(changed)
        })?;
        if changed.is_empty() {
            return Ok(0);
        }
        self.write("record the observations", |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE process
                 SET peak_rss_bytes = max(coalesce(peak_rss_bytes, 0), ?1), cpu_ms = ?2
                 WHERE id = ?3 AND state IN ('running', 'ending', 'survived')",
            )?;
            let mut written = 0;
            for sighting in &changed {
                let cells = (sighting.rss.cast_signed(), millis(sighting.cpu), sighting.process.0);
                written += update.execute(cells)? as u64;
            }
            Ok(written)
        })
    }
}

fn has_changed(connection: &Connection, sighting: &Sighting) -> rusqlite::Result<bool> {
    let known: Option<(i64, i64)> = connection
        .prepare_cached(
            "SELECT coalesce(peak_rss_bytes, 0), coalesce(cpu_ms, 0) FROM process
             WHERE id = ?1 AND state <> 'ended'",
        )?
        .query_one([sighting.process.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(known.is_some_and(|(peak, cpu)| {
        sighting.rss.cast_signed() > peak || (millis(sighting.cpu) - cpu).abs() >= millis(CPU_STEP)
    }))
}
