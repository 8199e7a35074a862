//! The monitor's thread, which detects deaths and runs the passes that are due.
//!
//! It waits neither for a grace nor for a pass: [`background`](super::end::background) ends trees
//! that exceeded a limit, and a health pass has its own thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    core::Core,
    end::settle,
    passes::schedule::Schedule,
    runtime::{deaths::Death, tracked::Dead},
};
use crate::{
    error::{Error, Result},
    sys::epoll::EVENTS,
};

/// Starts the thread.
pub(in crate::tracker) fn start(core: &Arc<Core>) -> Result<()> {
    let theirs = Arc::clone(core);
    core.passes.set_monitoring(true);
    core.threads
        .start("procledger-monitor", move || run(&theirs))
        .map_err(|error| Error::os("failed to start the monitor thread", error))
}

/// A guard that is dropped however the thread ends: from then on the thread does not count as
/// running, and waiters settle ends themselves.
struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.passes.set_monitoring(false);
    }
}

fn run(core: &Arc<Core>) {
    let _running = Running(core);
    if let Err(error) = core.store.open_reader() {
        tracing::debug!("{error}; the first pass retries");
    }
    let mut schedule = Schedule::new(&core.options);
    let mut looked = Instant::now();
    let mut found = Vec::with_capacity(EVENTS);
    while core.passes.is_monitoring() {
        let due = schedule.due(core);
        // A death that is reported without waiting happened after the last check; a death that ends
        // the wait happens now.
        let (mut since, now) = (looked, Instant::now());
        match core.registry.deaths.wait(&mut found, Duration::ZERO) {
            0 => {
                core.registry.deaths.wait(&mut found, due.next.saturating_duration_since(now));
                since = Instant::now();
                looked = since;
            }
            EVENTS => {}
            _ => looked = now,
        }
        settle_dead(core, &found, since);
        if !core.passes.is_monitoring() {
            return;
        }
        schedule.run(core, &due);
    }
}

/// Settles processes that died at `since` or later.
fn settle_dead(core: &Arc<Core>, found: &[Death], since: Instant) {
    let mut dead: Vec<Dead> = Vec::with_capacity(found.len());
    for death in found {
        match *death {
            Death::OfKeeper(row) => {
                if let Some(entry) = core.registry.get(row) {
                    entry.notice_keeper();
                }
            }
            Death::Of(row) => {
                if let Some(entry) = core.registry.get(row)
                    && let Some(pidfd) = entry.pidfd.clone()
                {
                    let _ = entry.died_since.set(since);
                    dead.push((entry, pidfd));
                }
            }
        }
    }
    settle::settle(core, &dead);
}
