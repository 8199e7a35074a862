//! Ends that could not be written when they happened: they wait in memory (invariant 10) until they can be written.
//!
//! Each health pass retries them, and so does a task that starts again. While another connection holds the ledger's lock they
//! do not wait for it: the retry would only delay the next writer. An orderly shutdown does wait.

use super::lock::lock;
use crate::{
    error::Error,
    model::{ProcessId, ProcessRecord, Report, TaskId},
    tracker::{core::Core, end::root_exit::stray},
};

impl Core {
    /// Retries ends that could not be written before, if the ledger's lock is free.
    pub(in crate::tracker) fn write_late(&self) {
        if self.is_late() && self.store.can_be_written_now() {
            self.write_last();
        }
    }

    /// Called before a task starts again: until the end of its previous process is written, that process still counts as
    /// running.
    pub(in crate::tracker) fn write_late_of(&self, task: &TaskId) {
        let mut late: Vec<ProcessId> =
            lock(&self.unwritten).iter().map(|end| end.process).collect();
        late.extend(lock(&self.unsettled).iter().map(|settled| settled.process));
        let is_late = |rows: Vec<ProcessRecord>| rows.iter().any(|row| late.contains(&row.id));
        if !late.is_empty() && self.store.live_of_task(task).is_ok_and(is_late) {
            self.write_late();
        }
    }

    fn is_late(&self) -> bool {
        !lock(&self.unwritten).is_empty() || !lock(&self.unsettled).is_empty()
    }

    /// Does the same, but waits for the lock as any write does. Returns the first error, if there is one.
    pub(in crate::tracker) fn write_last(&self) -> Option<Error> {
        let mut failed = None;
        let ends = std::mem::take(&mut *lock(&self.unwritten));
        if !ends.is_empty() {
            match self.store.settle_roots(self.instance.id, &ends) {
                Ok(rows) => {
                    for end in &ends {
                        if let Some(entry) = self.entry(end.process) {
                            entry.mark_recorded();
                            self.let_go(end.process);
                        }
                    }
                    self.notify_export();
                    // Their strays were ended without rows; now they get rows, claimed by us.
                    let rows: Vec<ProcessId> = rows.into_iter().flatten().flatten().collect();
                    self.end_late(&rows);
                }
                Err(error) => {
                    lock(&self.unwritten).extend(ends);
                    failed = Some(error);
                }
            }
        }
        let settled = std::mem::take(&mut *lock(&self.unsettled));
        if settled.is_empty() {
            return failed;
        }
        // The claim itself may be the write that failed. Rows that are claimed already stay as they are.
        let rows: Vec<ProcessId> = settled.iter().map(|settled| settled.process).collect();
        let written = self
            .store
            .claim(&rows, self.instance.id, Some(self.instance.id), None)
            .and_then(|_| self.store.record(self.instance.id, None, &settled));
        match written {
            Ok(_) => self.notify_export(),
            Err(error) => {
                lock(&self.unsettled).extend(settled);
                failed = failed.or(Some(error));
            }
        }
        failed
    }

    fn end_late(&self, rows: &[ProcessId]) {
        let records =
            rows.iter().filter_map(|row| self.store.process(*row).ok().flatten()).collect();
        let mut report = Report::default();
        let settled = self.end_claimed(&stray(), records, &mut report);
        self.write(None, settled, &mut report);
    }
}
