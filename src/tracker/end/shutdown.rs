//! The orderly shutdown, in the order of the former implementation: monitoring stops, tasks end, the export is removed.

use std::sync::{Arc, atomic::Ordering};

use super::outcome::Cause;
use crate::{
    error::Result,
    model::{EndReason, Millis, Report, StopHow},
    tracker::{
        Tracker,
        core::Core,
        runtime::{lock::lock, tracked::Entry},
    },
};

impl Tracker {
    /// Ends this instance's processes, except those marked `survive`, removes the export, and records a clean stop.
    ///
    /// Closes all clones of this handle; a second call does nothing. Dropping the last clone does the same, but cannot report
    /// errors.
    ///
    /// # Errors
    ///
    /// When the stop cannot be recorded. What could not be ended is listed in the report, and stays in the ledger as a
    /// survivor.
    pub fn shutdown(&self) -> Result<Report> {
        shut_down(&self.inner.core)
    }
}

pub(in crate::tracker) fn shut_down(core: &Arc<Core>) -> Result<Report> {
    if !core.instance.close() {
        return Ok(Report::default());
    }
    stop_monitor(core);
    // Spawns in progress finish first; none starts after this.
    core.instance.await_spawns();
    // A program that has ended by itself is not one that the shutdown ends: its job may let its strays run on.
    core.settle_waiting();
    core.settle(&core.dead_among(core.all_entries().into_iter()));
    let (survivors, mine): (Vec<Arc<Entry>>, Vec<Arc<Entry>>) =
        core.all_entries().into_iter().partition(|entry| entry.root.limits.survive);
    let cause =
        Cause { reason: EndReason::Shutdown, leak: None, rule: "its owner shut down".into() };
    let report = core.end_entries(&cause, &mine);
    for entry in survivors {
        core.let_go(entry.root.row);
    }
    join_all(core);
    // What the monitor was processing when it was asked to stop.
    core.settle_waiting();
    core.settle_claimed(&mine);
    core.bury_last();
    core.say_lost();
    core.store.be_patient_once();
    if let Some(why) = core.write_last() {
        core.keep_late_ends(&why);
    }
    core.finish_late();
    core.reap_ended();
    core.reap_adopted();
    core.close_branch();
    let exporter = lock(&core.exporter).take();
    // A thread that is flushing the export keeps it, and the file: the next instance replaces that file.
    let removed =
        exporter.and_then(Arc::into_inner).map_or(Ok(()), crate::export::Exporter::finish);
    let stopped = core.store.stop_instance(core.instance.id, StopHow::Clean, Millis::now());
    core.instance.release_lock(&core.store, stopped.is_ok());
    if let Err(error) = removed {
        tracing::warn!("failed to remove the export: {error}");
    }
    stopped.map(|_| report)
}

fn stop_monitor(core: &Core) {
    core.monitoring.store(false, Ordering::Release);
    core.wake_monitor();
    core.memory_watch.wake();
    core.forks.wake();
}

fn join_all(core: &Core) {
    loop {
        let threads = std::mem::take(&mut *lock(&core.threads));
        if threads.is_empty() {
            return;
        }
        for thread in threads {
            // The last handle may be dropped by one of our own threads.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
