//! Ends that their owner observed, but could not write before it stopped.
//!
//! The orphan pass ends such a row as `gone`, since nothing more can be determined by then. From
//! the record that the owner left, it is then added how and when the process ended. A row that was
//! ended in another way, or that has a status, stays as it is. So the same record may be added
//! twice, even after a crash in between, and a wrong record changes only the history of a process
//! that has ended.

use rusqlite::{Connection, OptionalExtension, named_params};

use super::{
    Store,
    cell::{Cell, RowReader},
    commit_counts::CommitCounts,
    leaks,
    migration::Schema,
    transaction::Transaction,
    transition::write_core_dump,
};
use crate::{
    error::Result,
    model::{End, InstanceId, LateEnd, NewLeak, ProcessId},
    redact::mask_text,
};

impl Store {
    /// Adds the ends that an instance left; `lock_name` must be the name of its lock. Returns how
    /// many rows changed, and whether any of the rows has not ended yet, so that the record must be
    /// kept.
    pub(crate) fn add_late_ends(
        &self,
        instance: InstanceId,
        lock_name: &str,
        ends: &[LateEnd],
    ) -> Result<(u64, bool)> {
        self.write_counted("record the end of processes", |tx, counts| {
            let known: bool = tx
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM instance WHERE id = ?1 AND lock_name = ?2)",
                )?
                .query_one((instance.0, lock_name), |row| row.get(0))?;
            if !known {
                return Ok((0, false));
            }
            let (mut added, mut waits) = (0, false);
            for late in ends {
                added += add(tx, counts, late)?;
                waits |= is_live(tx, late)?;
            }
            Ok((added, waits))
        })
    }

    /// Returns an end that could not be written, with the data that identifies its row; `None` if
    /// the row has ended.
    pub(crate) fn late_end(
        &self,
        id: ProcessId,
        end: End,
        leak: Option<NewLeak>,
    ) -> Result<Option<LateEnd>> {
        self.read("look up a process", |connection| {
            connection
                .prepare_cached(
                    "SELECT pid, start_tick, task_id FROM process WHERE id = ?1 AND state <> 'ended'",
                )?
                .query_one([id.0], |row| {
                    let mut reader = RowReader::of(row);
                    Ok((reader.take()?, reader.take()?, reader.take()?))
                })
                .optional()
        })
        .map(|found| {
            found.map(|(pid, start_tick, task)| LateEnd {
                process: id,
                pid,
                start_tick,
                task,
                end,
                leak,
            })
        })
    }
}

fn add(tx: &Transaction<'_>, counts: &mut CommitCounts, late: &LateEnd) -> rusqlite::Result<u64> {
    let end = &late.end;
    let changed = tx
        .prepare_cached(
            "UPDATE process
             SET end_reason = :reason, exit_code = :code, exit_signal = :signal,
               ended_at = max(started_at, min(ended_at, :at)), end_rule = :rule, end_evidence = :evidence
             WHERE id = :id AND pid = :pid AND start_tick = :start_tick AND state = 'ended'
               AND end_reason IN ('gone', 'rebooted') AND exit_code IS NULL AND exit_signal IS NULL",
        )?
        .execute(named_params! {
            ":id": late.process.0,
            ":pid": late.pid.get(),
            ":start_tick": late.start_tick.cast_signed(),
            ":reason": end.reason.as_str(),
            ":code": end.status.code(),
            ":signal": end.status.signal(),
            ":at": end.at.write(),
            ":rule": end.because.as_ref().map(|because| mask_text(&because.rule)),
            ":evidence": end.because.as_ref().map(|because| mask_text(&because.evidence)),
        })
        ?;
    if changed > 0 {
        write_keys(tx, late.process, end)?;
        write_core_dump(tx, late.process, end.core_dumped)?;
        if let Some(leak) = &late.leak {
            let mut leak = leak.clone();
            leak.because.rule = mask_text(&leak.because.rule);
            leak.because.evidence = mask_text(&leak.because.evidence);
            leaks::upsert(tx, counts, None, late.process, &leak)?;
        }
    }
    Ok(changed as u64)
}

fn is_live(connection: &Connection, late: &LateEnd) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM process
                            WHERE id = ?1 AND pid = ?2 AND start_tick = ?3 AND state <> 'ended')",
        )?
        .query_one((late.process.0, late.pid.get(), late.start_tick.cast_signed()), |row| {
            row.get(0)
        })
}

/// Writes the keys of rule and evidence, if the ledger has columns for them.
fn write_keys(tx: &Transaction<'_>, id: ProcessId, end: &End) -> rusqlite::Result<()> {
    let Some(because) = end.because.as_ref().filter(|_| tx.schema() >= Schema::KEYS) else {
        return Ok(());
    };
    tx.prepare_cached("UPDATE process SET end_rule_key = ?1, end_evidence_key = ?2 WHERE id = ?3")?
        .execute((because.rule_key.as_str(), because.evidence_key.as_str(), id.0))
        .map(|_| ())
}
