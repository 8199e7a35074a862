//! The monitor thread: epoll on pidfds, run-time limits on their deadlines, and health passes on a timer.
//!
//! It waits neither for a grace nor for another pass: limits are enforced by [`background`](crate::tracker::end::background),
//! and a health pass has a thread of its own.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::{event::epoll, io::Errno};

use super::{keeper_handle::keeper_of, tracked::Entry};
use crate::{
    error::{Error, Result},
    model::{EndReason, ProcessId},
    policy::limits::ran_too_long,
    sys::pidfd::timespec,
    tracker::{
        core::{Core, WAKE},
        end::{background::Due, outcome::Cause, root_exit::Dead},
    },
};

/// Maximum number of deaths that are handled in one transaction.
const EVENTS: usize = 256;
/// Pause after an error of epoll itself, which is not expected to persist: prevents a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A health pass that is due while the previous one is still running is retried after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Delay of the first check of the history, so that hosts which live for less than an interval also keep the ledger small; it
/// is not made at once, when a host has more urgent work.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Starts the thread.
pub(in crate::tracker) fn start(core: &Arc<Core>) -> Result<()> {
    let theirs = Arc::clone(core);
    core.monitoring.store(true, Ordering::Release);
    let thread = std::thread::Builder::new()
        .name("procledger-monitor".into())
        .spawn(move || run(&theirs))
        .map_err(|error| Error::os("failed to start the monitor thread", error))?;
    super::lock::lock(&core.threads).push(thread);
    // A process that was adopted before there was a monitor may have a memory limit.
    if core.memory_limits.load(Ordering::Acquire) > 0 {
        core.watch_memory();
    }
    Ok(())
}

/// Runs however the thread ends: from then on it no longer counts as running, and waiters settle ends themselves.
struct Running<'a>(&'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.monitoring.store(false, Ordering::Release);
    }
}

fn run(core: &Arc<Core>) {
    let _running = Running(core);
    crate::sys::leave_signals_to_the_host();
    if let Err(error) = core.store.open_reader() {
        tracing::debug!("{error}; the first pass retries");
    }
    let mut looked = Instant::now();
    let mut next_pass = looked + core.options.health_interval;
    let mut first_look = Some(looked + FIRST_LOOK);
    let mut next_zombies = looked;
    let mut looked_again = looked;
    let mut events = Vec::with_capacity(EVENTS);
    while core.monitoring.load(Ordering::Acquire) {
        let again = core.looks_again_in().map(|pause| looked_again + pause);
        let adopts = core.may_adopt();
        let zombies = adopts.then_some(next_zombies);
        let until = [core.next_deadline(), first_look, again, zombies]
            .into_iter()
            .flatten()
            .fold(next_pass, Instant::min);
        events.clear();
        // An event that is there without waiting has happened since the last check; an event that ends the wait happens now.
        let (mut since, now) = (looked, Instant::now());
        core.wait(&mut events, Duration::ZERO);
        if events.is_empty() {
            core.wait(&mut events, until.saturating_duration_since(now));
            since = Instant::now();
            looked = since;
        } else if events.len() < EVENTS {
            looked = now;
        }
        core.handle(&events, since);
        if !core.monitoring.load(Ordering::Acquire) {
            return;
        }
        if again.is_some_and(|again| again <= Instant::now()) {
            core.look_again();
            looked_again = Instant::now();
        }
        core.enforce_runtimes();
        if adopts && Instant::now() >= next_zombies {
            next_zombies = Instant::now() + core.look_for_zombies();
        }
        if first_look.take_if(|first| *first <= Instant::now()).is_some() {
            core.keep_house();
        }
        if Instant::now() >= next_pass {
            let started = core.start_health_pass();
            first_look = first_look.filter(|_| !started);
            let interval = core.options.health_interval;
            next_pass = Instant::now() + if started { interval } else { interval.min(RETRY) };
        }
    }
}

impl Core {
    fn wait(&self, events: &mut Vec<epoll::Event>, limit: Duration) {
        let room = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, room, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!("failed to wait for deaths: {error}");
                std::thread::sleep(ERROR_PAUSE);
            }
        }
    }

    /// Settles processes that have died, none of them earlier than `since`.
    fn handle(self: &Arc<Self>, events: &[epoll::Event], since: Instant) {
        let mut dead: Vec<Dead> = Vec::with_capacity(events.len());
        for event in events {
            // The structure is packed: copied before use.
            let data = event.data;
            if data.u64() == WAKE {
                let mut counter = [0; 8];
                let _ = rustix::io::read(&self.wake, &mut counter);
                continue;
            }
            if let Some(row) = keeper_of(data.u64()) {
                if let Some(entry) = self.entry(row) {
                    Self::notice_keeper(&entry);
                }
                continue;
            }
            if let Some(entry) = self.entry(ProcessId(data.u64().cast_signed()))
                && let Some(pidfd) = entry.pidfd.clone()
            {
                let _ = entry.died_since.set(since);
                dead.push((entry, pidfd));
            }
        }
        self.settle(&dead);
    }

    /// Returns our processes that have a maximum run time and whose end is not under way yet: usually none, and then none of
    /// the others is examined.
    fn limited(&self) -> Vec<Arc<Entry>> {
        if self.deadlines.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut entries = self.all_entries();
        entries.retain(|entry| entry.root.limits.max_runtime.is_some() && !entry.is_being_ended());
        entries
    }

    /// Returns when the next process reaches its maximum run time.
    fn next_deadline(&self) -> Option<Instant> {
        let entries = self.limited();
        let left = entries.iter().filter_map(|entry| {
            Some(entry.root.limits.max_runtime?.saturating_sub(entry.run_time()))
        });
        left.min().map(|left| Instant::now() + left)
    }

    /// Ends processes that have run too long, on another thread: the next death must not wait for a grace.
    fn enforce_runtimes(self: &Arc<Self>) {
        let due = self.limited().into_iter().filter_map(|entry| {
            let rule = ran_too_long(entry.root.limits.max_runtime, entry.run_time())?;
            let cause = Cause { reason: EndReason::MaxRuntime, leak: None, rule };
            Some(Due { entry, cause, answer: None })
        });
        self.end_aside(due.collect());
    }

    /// Starts a health pass on a thread of its own, since it may wait for another pass, for a grace, or for the ledger. Returns
    /// `false` while the previous one is still running.
    fn start_health_pass(self: &Arc<Self>) -> bool {
        if self.passing.swap(true, Ordering::AcqRel) {
            return false;
        }
        let passing = Passing(Arc::clone(self));
        self.run_aside("procledger-health", move || {
            if let Err(error) = passing.0.health_pass() {
                tracing::error!("the health pass failed: {error}");
            }
            passing.0.keep_house();
        });
        true
    }
}

/// A health pass started by the monitor that is still running.
struct Passing(Arc<Core>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.passing.store(false, Ordering::Release);
    }
}
