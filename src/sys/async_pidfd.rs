//! A pidfd in a tokio runtime's epoll.

#![expect(unsafe_code, reason = "tokio takes a descriptor on the promise that it stays open")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Handle, Id, is_rt_shutdown_err},
};

use super::PidFd;
use crate::error::{Error, Result};

/// A pidfd that wakes a task when its process is dead.
///
/// It is registered with one runtime at a time: the one in which it was last polled. A runtime that
/// has ended, or that no thread is driving, wakes no task.
#[derive(Debug)]
pub(crate) struct AsyncPidFd {
    registered: AsyncFd<Watched>,
    runtime: Option<Id>,
}

#[derive(Debug)]
struct Watched(Arc<PidFd>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Returns the runtime in which this is called.
pub(crate) fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl AsyncPidFd {
    /// Registers a pidfd with the runtime in which this is called.
    ///
    /// # Panics
    ///
    /// If called outside a runtime, or in a runtime without I/O.
    pub(crate) fn new(pidfd: Arc<PidFd>) -> io::Result<Self> {
        // SAFETY: a `PidFd` owns its descriptor, never changes it and closes it only when it is
        // dropped; the `Arc` in here keeps it as long as the registration.
        let registered =
            unsafe { AsyncFd::register_with_interest(Watched(pidfd), Interest::READABLE) };
        Ok(Self { registered: registered?, runtime: current_runtime() })
    }

    fn is_dead(&self) -> Result<bool> {
        self.registered.get_ref().0.is_dead()
    }

    /// Registers the pidfd with the current runtime instead.
    fn register_here(&mut self) -> Result<()> {
        let pidfd = Arc::clone(&self.registered.get_ref().0);
        *self = Self::new(pidfd)
            .map_err(|error| Error::os("failed to wait for a pidfd in tokio", error))?;
        Ok(())
    }

    /// Reports whether every thread of the process is dead; the task is woken once that is so.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // A task that is polled outside any runtime is woken by the runtime with which the pidfd
        // was registered.
        let current = current_runtime();
        if current.is_some() && current != self.runtime {
            self.register_here()?;
        }
        loop {
            match ready!(self.registered.poll_read_ready(cx)) {
                Ok(mut ready) => {
                    if self.registered.get_ref().0.is_dead()? {
                        return Poll::Ready(Ok(()));
                    }
                    // Runtimes may wake spuriously.
                    ready.clear_ready();
                }
                // Detecting a dead process needs no runtime.
                Err(_) if self.is_dead()? => return Poll::Ready(Ok(())),
                Err(error) => {
                    let error = if is_rt_shutdown_err(&error) {
                        Error::new(
                            crate::error::Kind::Closed,
                            "the tokio runtime that waits for a process has ended: wait in another runtime",
                        )
                    } else {
                        Error::os("failed to wait for a pidfd in tokio", error)
                    };
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}
