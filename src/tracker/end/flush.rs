//! Writes ends that could not be written when they happened, and that wait in memory until they can
//! be (invariant 10).
//!
//! Each health pass retries them, and so does the start of the same task. Neither waits while
//! another connection holds the ledger's lock, since that would only delay the next writer. An
//! orderly shutdown does wait.

use super::{
    claimed_trees,
    outcome::{self, Conclusion},
    release,
};
use crate::{
    error::Error,
    model::{ProcessId, ProcessRecord, TaskId},
    tracker::{core::Core, runtime::cause::Cause},
};

/// Retries ends that could not be written before, if the ledger's lock is free.
pub(in crate::tracker) fn try_flush(core: &Core) {
    if core.pending.is_unwritten() && core.store.can_be_written_now() {
        flush_all(core);
    }
}

/// Retries the ends of a task that is started again: until the end of its previous process is
/// written, that process counts as running.
pub(in crate::tracker) fn flush_task(core: &Core, task: &TaskId) {
    let late = core.pending.rows();
    let is_late = |rows: Vec<ProcessRecord>| rows.iter().any(|row| late.contains(&row.id));
    if !late.is_empty() && core.store.live_of_task(task).is_ok_and(is_late) {
        try_flush(core);
    }
}

/// Retries all ends, waiting for the lock like any write. Returns the first error, if there is one.
pub(in crate::tracker) fn flush_all(core: &Core) -> Option<Error> {
    let mut failed = None;
    let ends = core.pending.roots.take();
    if !ends.is_empty() {
        match core.store.settle_roots(core.instance.id, &ends) {
            Ok(rows) => {
                for end in &ends {
                    if let Some(entry) = core.registry.get(end.process) {
                        entry.mark_recorded();
                        release::untrack(core, end.process);
                    }
                }
                core.export.notify();
                // The strays were ended without rows; now they get rows, claimed by us.
                let rows: Vec<ProcessId> =
                    rows.into_values().flatten().map(|(row, _)| row).collect();
                end_recorded(core, &rows);
            }
            Err(error) => {
                core.pending.roots.extend(ends);
                failed = Some(error);
            }
        }
    }
    let settled = core.pending.settled.take();
    if settled.is_empty() {
        return failed;
    }
    // The claim may be the write that failed. Rows that are already claimed stay as they are.
    let rows: Vec<ProcessId> = settled.iter().filter_map(|settled| settled.row.id()).collect();
    let written = core
        .store
        .claim(&rows, core.instance.id, Some(core.instance.id), None)
        .and_then(|_| core.store.record(core.instance.id, None, &settled));
    match written {
        Ok(_) => core.export.notify(),
        Err(error) => {
            core.pending.settled.extend(settled);
            failed = failed.or(Some(error));
        }
    }
    failed
}

fn end_recorded(core: &Core, rows: &[ProcessId]) {
    let records = rows.iter().filter_map(|row| core.store.process(*row).ok().flatten()).collect();
    let Conclusion { settled, .. } = claimed_trees::end_claimed(core, &Cause::stray(), records);
    // An error is logged, and the next flush retries.
    let _ = outcome::write(core, None, settled);
}
