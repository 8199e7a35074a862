//! The orderly end, in the seed's order: monitoring stops, tasks end, the export goes.

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
    /// Ends this instance's processes, but for those marked `survive`, removes the export, and records a clean stop.
    ///
    /// All clones of this handle are closed by it; a second call does nothing. Dropping the last clone does the same, but
    /// has nobody to tell.
    ///
    /// # Errors
    ///
    /// When the stop cannot be recorded. What could not be ended is in the report, and stays in the ledger as a survivor.
    pub fn shutdown(&self) -> Result<Report> {
        shut_down(&self.inner.shared)
    }
}

pub(in crate::tracker) fn shut_down(shared: &Arc<Shared>) -> Result<Report> {
    // A forked child has a copy of everything, and owns nothing of it.
    if shared.is_forked() || shared.closed.swap(true, Ordering::AcqRel) {
        return Ok(Report::default());
    }
    stop_monitor(shared);
    // Spawns under way end first; none starts after this.
    drop(shared.spawning.write().unwrap_or_else(PoisonError::into_inner));
    // What has ended by itself is no program that the shutdown ends: it may have kept its strays.
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
    // What the monitor had in its hands as it was told to stop.
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
    // Somebody who is just flushing it keeps it, and the file: the next instance replaces that.
    let removed =
        exporter.and_then(Arc::into_inner).map_or(Ok(()), crate::export::Exporter::finish);
    let stopped = shared.store.stop_instance(shared.instance, StopHow::Clean, Millis::now());
    // The lock goes last, and only after a stop that was recorded: otherwise our death is what the next one finds.
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
