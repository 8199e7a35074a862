//! The state of the thread that listens for fork events.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use super::lock::lock;
use crate::{
    error::{Error, Result},
    sys::epoll::Wake,
};

/// How long it continues to listen after the last spawn, so that it need not be started again for
/// each of several successive roots.
pub(in crate::tracker) const LINGER: Duration = Duration::from_secs(10);
/// The maximum time for which a spawn waits for the listener.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

/// State of the thread that listens. Written by spawns, which start it, and by the thread itself.
#[derive(Debug)]
pub(in crate::tracker) struct ForkListener {
    state: Mutex<State>,
    /// Signalled when the thread listens, or has found that it cannot.
    begun: Condvar,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Whether forks are reported now.
    listens: bool,
    /// Whether the kernel does not report forks, which is tried once.
    refused: bool,
    /// When a root was last about to start.
    wanted: Option<Instant>,
}

impl ForkListener {
    pub(in crate::tracker) fn new() -> Result<Self> {
        let wake = Wake::new()
            .map_err(|error| Error::os("failed to set up the listener for forks", error))?;
        Ok(Self { state: Mutex::default(), begun: Condvar::new(), wake })
    }

    /// Makes a thread listen, which `start` starts. The first spawn waits for it, usually for a
    /// millisecond, since a program may hide before the thread has started.
    pub(in crate::tracker) fn want(&self, start: impl FnOnce() -> io::Result<()>) {
        let mut state = lock(&self.state);
        state.wanted = Some(Instant::now());
        if state.running || state.refused {
            return;
        }
        state.running = true;
        match start() {
            Ok(()) => {
                let waits = |state: &mut State| state.running && !state.listens;
                let _ = self.begun.wait_timeout_while(state, BEGINS_WITHIN, waits);
            }
            Err(error) => {
                state.running = false;
                tracing::warn!("failed to start the listener for forks: {error}");
            }
        }
    }

    /// Notes that forks are reported from now on.
    pub(in crate::tracker) fn listens(&self) {
        lock(&self.state).listens = true;
        self.begun.notify_all();
    }

    /// Notes that the kernel does not, or no longer, report forks.
    pub(in crate::tracker) fn refuse(&self) {
        let mut state = lock(&self.state);
        (state.running, state.listens, state.refused) = (false, false, true);
        drop(state);
        self.begun.notify_all();
    }

    /// Returns whether the thread must end, because no root needs it and none was about to start
    /// for a while; then it no longer counts as running.
    pub(in crate::tracker) fn ends_unless(&self, is_needed: impl FnOnce() -> bool) -> bool {
        let mut state = lock(&self.state);
        let is_wanted = state.wanted.is_some_and(|wanted| wanted.elapsed() < LINGER);
        let ends = !is_wanted && !is_needed();
        state.running = !ends;
        state.listens &= !ends;
        ends
    }

    /// Makes the thread check whether it must end.
    pub(in crate::tracker) fn wake(&self) {
        self.wake.wake();
    }

    /// Returns the descriptor that is readable once it was woken.
    pub(in crate::tracker) fn woken(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
