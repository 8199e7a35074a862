//! The state of the thread that listens for fork events.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Mutex,
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

/// Why a thread that listens was not started.
#[derive(Debug)]
pub(in crate::tracker) enum NotStarted {
    /// The kernel does not report forks here.
    Unavailable(Error),
    /// The thread could not be created; the next spawn tries again.
    NoThread(io::Error),
}

/// State of the thread that listens. Written by spawns, which start it, and by the thread itself.
#[derive(Debug)]
pub(in crate::tracker) struct ForkListener {
    state: Mutex<State>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Whether the kernel does not report forks, which is tried once.
    refused: bool,
    /// When a root was last about to start.
    wanted: Option<Instant>,
}

impl ForkListener {
    pub(in crate::tracker) fn new() -> Result<Self> {
        let wake = Wake::new()
            .map_err(|error| Error::os("failed to set up the listener for forks", error))?;
        Ok(Self { state: Mutex::default(), wake })
    }

    /// Makes a thread listen, which `start` starts, unless the kernel does not report forks.
    ///
    /// The kernel reports them to a socket from the moment when `start` has opened it, so that a
    /// program cannot hide before the thread runs.
    pub(in crate::tracker) fn want(&self, start: impl FnOnce() -> Result<(), NotStarted>) {
        let mut state = lock(&self.state);
        state.wanted = Some(Instant::now());
        if state.running || state.refused {
            return;
        }
        match start() {
            Ok(()) => state.running = true,
            Err(NotStarted::Unavailable(error)) => {
                state.refused = true;
                tracing::debug!(
                    "fork events are unavailable, the health pass searches for forked processes: {error}"
                );
            }
            Err(NotStarted::NoThread(error)) => {
                tracing::warn!("failed to start the listener for forks: {error}");
            }
        }
    }

    /// Notes that the kernel no longer reports forks.
    pub(in crate::tracker) fn refuse(&self) {
        let mut state = lock(&self.state);
        (state.running, state.refused) = (false, true);
    }

    /// Returns whether the thread must end, because no root needs it and none was about to start
    /// for a while; then it no longer counts as running.
    pub(in crate::tracker) fn ends_unless(&self, is_needed: impl FnOnce() -> bool) -> bool {
        let mut state = lock(&self.state);
        let is_wanted = state.wanted.is_some_and(|wanted| wanted.elapsed() < LINGER);
        let ends = !is_wanted && !is_needed();
        state.running = !ends;
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
