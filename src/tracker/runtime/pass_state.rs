//! Whether the monitor runs, and which passes are running: no two of them run at once.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use super::lock::lock;

/// The state of the monitor and of the passes.
#[derive(Debug, Default)]
pub(in crate::tracker) struct PassState {
    /// Whether the monitor is running and was not asked to stop. Set when it is started, cleared
    /// when it ends and by the shutdown; read by every thread that could leave work to it.
    monitoring: AtomicBool,
    /// Held by the pass, or the `kill`, that is running.
    pass: Mutex<()>,
    /// Whether the monitor has started a health pass that is still running. Set by the monitor,
    /// cleared by the pass.
    health: Arc<AtomicBool>,
}

impl PassState {
    /// Returns whether the monitor is running and was not asked to stop.
    pub(in crate::tracker) fn is_monitoring(&self) -> bool {
        self.monitoring.load(Ordering::Acquire)
    }

    pub(in crate::tracker) fn set_monitoring(&self, on: bool) {
        self.monitoring.store(on, Ordering::Release);
    }

    /// Waits until no other pass is running, and prevents others from running until the guard is
    /// dropped.
    pub(in crate::tracker) fn begin_pass(&self) -> MutexGuard<'_, ()> {
        lock(&self.pass)
    }

    /// Reserves the health pass of the monitor; `None` while the previous one is still running.
    pub(in crate::tracker) fn begin_health(&self) -> Option<RunningHealthPass> {
        let free = !self.health.swap(true, Ordering::AcqRel);
        free.then(|| RunningHealthPass(Arc::clone(&self.health)))
    }
}

/// A health pass that the monitor has started; the next one can begin once this is dropped.
#[derive(Debug)]
pub(in crate::tracker) struct RunningHealthPass(Arc<AtomicBool>);

impl Drop for RunningHealthPass {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
