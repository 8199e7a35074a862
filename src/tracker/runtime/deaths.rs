//! Learns of deaths from the kernel: an epoll instance with the pidfds of all tracked processes and their keepers.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};

use super::tracked::Tracked;
use crate::{
    error::{Error, Result},
    model::ProcessId,
    sys::poll::timespec,
};

/// Maximum number of deaths that one wait reports: they are handled in one transaction.
pub(in crate::tracker) const EVENTS: usize = 256;
/// Pause after an error of epoll itself, which is not expected to persist: prevents a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// The epoll data of the wake-up descriptor; rows count from 1.
const WAKE: u64 = 0;
/// Marks the epoll data of a keeper, beside the row of its program; rows never reach this bit.
const KEEPER: u64 = 1 << 63;
/// Each descriptor is reported once: its death is handled, and the process is released. Level-triggered, so that a death that
/// was reported and ignored is reported again after [`Deaths::rearm`].
const ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// What a wait has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Death {
    /// The process of this row.
    Of(ProcessId),
    /// The keeper of this row's process.
    OfKeeper(ProcessId),
}

/// The descriptors whose deaths are reported. Threads that track and release processes change it, the monitor waits on it; the
/// kernel does the locking.
#[derive(Debug)]
pub(in crate::tracker) struct Deaths {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Deaths {
    pub(in crate::tracker) fn new() -> Result<Self> {
        let failed = |error| Error::os("failed to set up the monitor", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(failed)?;
        Ok(Self { epoll, wake })
    }

    /// Ends the wait that is in progress, or else the next one.
    pub(in crate::tracker) fn wake(&self) {
        // Full means that the waiter has not yet woken up from earlier calls.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Reports the death of a process, and that of its keeper.
    pub(in crate::tracker) fn watch(&self, entry: &Tracked) {
        let row = entry.root.row.0.cast_unsigned();
        if let Some(fd) = &entry.pidfd
            && let Err(error) =
                epoll::add(&self.epoll, fd.as_ref(), epoll::EventData::new_u64(row), ONCE)
        {
            tracing::warn!(
                "failed to watch process {}: {error}; the health pass covers it",
                entry.root.identity.pid
            );
        }
        if let Some(keeper) = &entry.keeper {
            let data = epoll::EventData::new_u64(row | KEEPER);
            // A failure leaves it to the health pass.
            let _ = keeper.watched(|fd: BorrowedFd<'_>| epoll::add(&self.epoll, fd, data, ONCE));
        }
    }

    /// Reports a death again that was reported before, and ignored.
    pub(in crate::tracker) fn rearm(&self, entry: &Tracked) {
        if let Some(fd) = &entry.pidfd {
            let data = epoll::EventData::new_u64(entry.root.row.0.cast_unsigned());
            let _ = epoll::modify(&self.epoll, fd.as_ref(), data, ONCE);
        }
    }

    /// Stops watching a process. Its keeper is not watched any more once its descriptor is closed.
    pub(in crate::tracker) fn unwatch(&self, entry: &Tracked) {
        if let Some(fd) = &entry.pidfd {
            let _ = epoll::delete(&self.epoll, fd.as_fd());
        }
    }

    /// Waits until something dies or [`Self::wake`] is called, at most `limit`, and replaces `found` by what has died; returns
    /// how many descriptors were ready.
    pub(in crate::tracker) fn wait(&self, found: &mut Vec<Death>, limit: Duration) -> usize {
        found.clear();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, room, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!("failed to wait for deaths: {error}");
                std::thread::sleep(ERROR_PAUSE);
            }
        }
        for event in &events {
            // The structure is packed: copied before use.
            let data = event.data;
            let data = data.u64();
            if data == WAKE {
                let mut counter = [0; 8];
                let _ = rustix::io::read(&self.wake, &mut counter);
            } else if data & KEEPER != 0 {
                found.push(Death::OfKeeper(ProcessId((data & !KEEPER).cast_signed())));
            } else {
                found.push(Death::Of(ProcessId(data.cast_signed())));
            }
        }
        events.len()
    }
}
