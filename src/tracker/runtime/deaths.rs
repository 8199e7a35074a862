//! Detects deaths by an epoll instance with the pidfds of all tracked processes and their keepers.

use std::{os::fd::BorrowedFd, time::Duration};

use super::tracked::Tracked;
use crate::{
    error::{Error, Result},
    model::ProcessId,
    sys::epoll::{Readiness, Wake},
};

/// Pause after an error of the wait itself, to prevent a busy loop; such an error is not expected
/// to persist.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// The key of the descriptor that wakes the waiter; row numbers begin with 1.
const WAKE: u64 = 0;
/// Marks the key of a keeper, with the row number of its program; row numbers never reach this bit.
const KEEPER: u64 = 1 << 63;

/// A death that a wait has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Death {
    /// The process of this row.
    Of(ProcessId),
    /// The keeper of this row's process.
    OfKeeper(ProcessId),
}

/// The descriptors of the processes whose deaths are reported, each once. Threads that track and
/// release processes change the set, the monitor waits on it.
#[derive(Debug)]
pub(in crate::tracker) struct Deaths {
    readiness: Readiness,
    wake: Wake,
}

impl Deaths {
    pub(in crate::tracker) fn new() -> Result<Self> {
        let failed = |error| Error::os("failed to set up the monitor", error);
        let wake = Wake::new().map_err(failed)?;
        let readiness = Readiness::new().map_err(failed)?;
        readiness.add(&wake, WAKE).map_err(failed)?;
        Ok(Self { readiness, wake })
    }

    /// Ends the wait that is in progress, or else the next one.
    pub(in crate::tracker) fn wake(&self) {
        self.wake.wake();
    }

    /// Reports the death of a process, and that of its keeper.
    pub(in crate::tracker) fn watch(&self, entry: &Tracked) {
        let row = entry.root.row.0.cast_unsigned();
        if let Some(fd) = &entry.pidfd
            && let Err(error) = self.readiness.add_once(fd.as_ref(), row)
        {
            tracing::warn!(
                "failed to watch process {}: {error}; the health pass covers it",
                entry.root.identity.pid
            );
        }
        if let Some(keeper) = &entry.keeper {
            // A failure leaves it to the health pass.
            let _ = keeper.watched(|fd: BorrowedFd<'_>| self.readiness.add_once(fd, row | KEEPER));
        }
    }

    /// Makes a death that was reported before and ignored be reported again.
    pub(in crate::tracker) fn rearm(&self, entry: &Tracked) {
        if let Some(fd) = &entry.pidfd {
            let _ = self.readiness.rearm(fd.as_ref(), entry.root.row.0.cast_unsigned());
        }
    }

    /// Stops watching a process. Its keeper is watched until its descriptor is closed.
    pub(in crate::tracker) fn unwatch(&self, entry: &Tracked) {
        if let Some(fd) = &entry.pidfd {
            let _ = self.readiness.remove(fd.as_ref());
        }
    }

    /// Waits until a process dies or [`Self::wake`] is called, at most `limit`, and replaces
    /// `found` by the deaths; returns how many descriptors were ready.
    pub(in crate::tracker) fn wait(&self, found: &mut Vec<Death>, limit: Duration) -> usize {
        found.clear();
        let ready = self.readiness.wait(limit).unwrap_or_else(|error| {
            tracing::error!("failed to wait for deaths: {error}");
            std::thread::sleep(ERROR_PAUSE);
            Vec::new()
        });
        for &key in &ready {
            if key == WAKE {
                self.wake.clear();
            } else if key & KEEPER != 0 {
                found.push(Death::OfKeeper(ProcessId((key & !KEEPER).cast_signed())));
            } else {
                found.push(Death::Of(ProcessId(key.cast_signed())));
            }
        }
        ready.len()
    }
}
