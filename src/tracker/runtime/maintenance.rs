//! Schedules the checks of the ledger's history.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::lock::lock;

/// When the ledger's history is checked again, and whether a thread is shortening it. Written by
/// that thread when it ends.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Maintenance {
    next: Mutex<Option<Instant>>,
    busy: AtomicBool,
}

impl Maintenance {
    /// Returns whether the time of the next check has come.
    pub(in crate::tracker) fn is_time(&self) -> bool {
        lock(&self.next).is_none_or(|next| next <= Instant::now())
    }

    /// Reserves the work; returns `false` while a thread is doing it.
    pub(in crate::tracker) fn begin(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    /// Notes that the work is done, and when the next check is due; `None` if it could not begin.
    pub(in crate::tracker) fn end(&self, next: Option<Instant>) {
        if next.is_some() {
            *lock(&self.next) = next;
        }
        self.busy.store(false, Ordering::Release);
    }
}
