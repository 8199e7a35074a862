//! The monitor thread: epoll on pidfds, the health pass on a timer, run-time limits on their deadlines.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustix::{event::epoll, io::Errno};

use super::{
    entry::Entry,
    keeper::keeper_of,
    settle::Dead,
    shared::{Shared, WAKE},
};
use crate::{
    error::{Error, Result},
    os::pidfd::timespec,
    plan::limits::passed,
    record::{ProcessId, Report},
};

/// Deaths that are handled in one transaction.
const EVENTS: usize = 256;
/// After an error of epoll itself, which has none that goes on: no busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The first look at the history, so that hosts which live for less than an interval keep the ledger small as well; not at
/// once, when they have better things to do.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Starts the thread.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let theirs = Arc::clone(shared);
    shared.monitoring.store(true, Ordering::Release);
    let thread = std::thread::Builder::new()
        .name("procledger-monitor".into())
        .spawn(move || run(&theirs))
        .map_err(|error| Error::os("failed to start the monitor thread", error))?;
    super::shared::lock(&shared.threads).push(thread);
    Ok(())
}

/// However the thread ends: from then on nobody is told that it runs, and waiters settle ends themselves.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.monitoring.store(false, Ordering::Release);
    }
}

fn run(shared: &Arc<Shared>) {
    let _running = Running(shared);
    crate::os::leave_signals_to_the_host();
    if let Err(error) = shared.store.open_reader() {
        tracing::debug!("{error}; the first pass tries again");
    }
    let mut looked = Instant::now();
    let mut next_pass = looked + shared.options.health_interval;
    let mut first_look = Some(looked + FIRST_LOOK);
    let mut next_zombies = looked;
    let mut events = Vec::with_capacity(EVENTS);
    while shared.monitoring.load(Ordering::Acquire) {
        let adopts = shared.may_adopt();
        let until = [shared.next_deadline(), first_look, adopts.then_some(next_zombies)]
            .into_iter()
            .flatten()
            .fold(next_pass, Instant::min);
        events.clear();
        // What is there without waiting has happened since the last look; what ends the wait happens now.
        let (mut since, now) = (looked, Instant::now());
        shared.wait(&mut events, Duration::ZERO);
        if events.is_empty() {
            shared.wait(&mut events, until.saturating_duration_since(now));
            since = Instant::now();
            looked = since;
        } else if events.len() < EVENTS {
            looked = now;
        }
        shared.handle(&events, since);
        if !shared.monitoring.load(Ordering::Acquire) {
            return;
        }
        shared.enforce_runtimes();
        if adopts && Instant::now() >= next_zombies {
            next_zombies = Instant::now() + shared.look_for_zombies();
        }
        if first_look.take_if(|first| *first <= Instant::now()).is_some() {
            shared.keep_house();
        }
        if Instant::now() >= next_pass {
            if let Err(error) = shared.health_pass() {
                tracing::error!("the health pass failed: {error}");
            }
            shared.keep_house();
            first_look = None;
            next_pass = Instant::now() + shared.options.health_interval;
        }
    }
}

impl Shared {
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

    /// Settles what has died, none of it longer ago than `since`.
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

    /// Those of our processes that have a longest run time and are nobody's concern yet: as a rule none, and then none of
    /// the others is looked at.
    fn limited(&self) -> Vec<Arc<Entry>> {
        if self.deadlines.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut entries = self.all_entries();
        entries.retain(|entry| entry.root.limits.max_runtime.is_some() && !entry.is_being_ended());
        entries
    }

    /// When the next process reaches its longest run time.
    fn next_deadline(&self) -> Option<Instant> {
        let entries = self.limited();
        let left = entries.iter().filter_map(|entry| {
            Some(entry.root.limits.max_runtime?.saturating_sub(entry.root.age()))
        });
        left.min().map(|left| Instant::now() + left)
    }

    fn enforce_runtimes(self: &Arc<Self>) {
        let due: Vec<_> = (self.limited().iter())
            .filter_map(|entry| {
                let (reason, rule) = passed(&entry.root.limits, entry.root.age(), 0)?;
                Some((entry.root.row, reason, rule))
            })
            .collect();
        if due.is_empty() {
            return;
        }
        // Aside: the next death must not wait for their grace.
        let shared = Arc::clone(self);
        self.run_aside("procledger-limits", move || shared.end_due(due, &mut Report::default()));
    }
}
