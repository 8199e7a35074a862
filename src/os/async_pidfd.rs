//! A pidfd in a tokio runtime's epoll.

#![expect(unsafe_code, reason = "tokio takes a descriptor on the promise that it stays open")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::PidFd;
use crate::error::{Error, Result};

/// Tells a task when a process is dead; there is one registration of a descriptor for each runtime.
#[derive(Debug)]
pub(crate) struct AsyncPidFd(AsyncFd<Watched>);

#[derive(Debug)]
struct Watched(Arc<PidFd>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsyncPidFd {
    /// Registers it with the runtime that this is called in.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, and in one without I/O.
    pub(crate) fn new(pidfd: Arc<PidFd>) -> io::Result<Self> {
        // SAFETY: a `PidFd` owns its descriptor, never changes it and closes it only when it is dropped; the `Arc` in here
        // keeps it as long as the registration.
        let watched =
            unsafe { AsyncFd::register_with_interest(Watched(pidfd), Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Whether every thread of the process is dead; the task is woken when it is.
    pub(crate) fn poll_dead(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let ready = ready!(self.0.poll_read_ready(cx));
            let mut ready =
                ready.map_err(|error| Error::os("failed to wait for a pidfd in tokio", error))?;
            if self.0.get_ref().0.is_dead()? {
                return Poll::Ready(Ok(()));
            }
            // Runtimes may wake for nothing.
            ready.clear_ready();
        }
    }
}
