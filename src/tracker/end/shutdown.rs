//! The orderly shutdown, in the order of the former implementation: monitoring stops, tasks end, the export is removed.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use super::outcome::Cause;
use crate::{
    error::Result,
    model::{EndReason, Millis, Report, StopHow},
    tracker::{
        Tracker,
        runtime::{
            shared::{Shared, lock},
            tracked::Entry,
        },
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
        shut_down(&self.inner.shared)
    }
}

pub(in crate::tracker) fn shut_down(shared: &Arc<Shared>) -> Result<Report> {
    // A forked child has a copy of everything, and owns none of it.
    if shared.is_forked() || shared.closed.swap(true, Ordering::AcqRel) {
        return Ok(Report::default());
    }
    stop_monitor(shared);
    // Spawns in progress finish first; none starts after this.
    drop(shared.spawning.write().unwrap_or_else(PoisonError::into_inner));
    // A program that has ended by itself is not one that the shutdown ends: its job may let its strays run on.
    shared.settle_waiting();
    shared.settle(&shared.dead_among(shared.all_entries().into_iter()));
    let (survivors, mine): (Vec<Arc<Entry>>, Vec<Arc<Entry>>) =
        shared.all_entries().into_iter().partition(|entry| entry.root.limits.survive);
    let cause =
        Cause { reason: EndReason::Shutdown, leak: None, rule: "its owner shut down".into() };
    let report = shared.end_entries(&cause, &mine);
    for entry in survivors {
        shared.let_go(entry.root.row);
    }
    join_all(shared);
    // What the monitor was processing when it was asked to stop.
    shared.settle_waiting();
    shared.settle_claimed(&mine);
    shared.bury_last();
    shared.say_lost();
    shared.store.be_patient_once();
    if let Some(why) = shared.write_last() {
        shared.keep_late_ends(&why);
    }
    shared.finish_late();
    shared.reap_ended();
    shared.reap_adopted();
    shared.close_branch();
    let exporter = lock(&shared.exporter).take();
    // A thread that is flushing the export keeps it, and the file: the next instance replaces that file.
    let removed =
        exporter.and_then(Arc::into_inner).map_or(Ok(()), crate::export::Exporter::finish);
    let stopped = shared.store.stop_instance(shared.instance, StopHow::Clean, Millis::now());
    // The lock is released last, and only after a stop that was recorded: otherwise the next instance has to find this one
    // dead.
    if let (Some(held), Ok(_), Ok(_acting)) =
        (lock(&shared.lock).take(), &stopped, shared.store.act_as_owner())
    {
        held.remove();
    }
    if let Err(error) = removed {
        tracing::warn!("failed to remove the export: {error}");
    }
    stopped.map(|_| report)
}

fn stop_monitor(shared: &Shared) {
    shared.monitoring.store(false, Ordering::Release);
    shared.wake_monitor();
    shared.memory_watch.wake();
    shared.forks.wake();
}

fn join_all(shared: &Shared) {
    loop {
        let threads = std::mem::take(&mut *lock(&shared.threads));
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
