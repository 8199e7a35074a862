//! The state of the thread that checks memory limits, and its sleep between checks.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::lock::lock;

/// The thread that checks memory limits. Started by the monitor, woken by the shutdown; written by
/// that thread when it ends.
#[derive(Debug, Default)]
pub(in crate::tracker) struct MemoryWatch {
    running: Mutex<bool>,
    woken: Condvar,
}

impl MemoryWatch {
    pub(in crate::tracker) fn is_running(&self) -> bool {
        *lock(&self.running)
    }

    /// Reserves the start of the thread; returns `false` while it is running.
    pub(in crate::tracker) fn begin(&self) -> bool {
        !std::mem::replace(&mut *lock(&self.running), true)
    }

    /// Returns whether the thread is needed; if not, it no longer counts as running.
    pub(in crate::tracker) fn goes_on(&self, is_needed: impl FnOnce() -> bool) -> bool {
        let mut running = lock(&self.running);
        *running = is_needed();
        *running
    }

    /// Waits until it is woken, at most `limit`.
    pub(in crate::tracker) fn sleep(&self, limit: Duration) {
        let running = lock(&self.running);
        drop(self.woken.wait_timeout(running, limit).unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends the sleep of the thread.
    pub(in crate::tracker) fn wake(&self) {
        let _running = lock(&self.running);
        self.woken.notify_all();
    }
}
