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

/// Wakes a task when a process is dead.
///
/// It is registered with one runtime at a time: the one in which it was last polled. A runtime that has ended, or that no
/// thread drives at the moment, wakes no task.
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

/// Returns the runtime that this is called in.
pub(crate) fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl AsyncPidFd {
    /// Registers it with the runtime that this is called in.
    ///
    /// # Panics
    ///
    /// When called outside of a runtime, or in one without I/O.
    pub(crate) fn new(pidfd: Arc<PidFd>) -> io::Result<Self> {
        // SAFETY: a `PidFd` owns its descriptor, never changes it and closes it only when it is dropped; the `Arc` in here
        // keeps it as long as the registration.
        let registered =
            unsafe { AsyncFd::register_with_interest(Watched(pidfd), Interest::READABLE) };
        Ok(Self { registered: registered?, runtime: current_runtime() })
    }

    fn is_dead(&self) -> Result<bool> {
        self.registered.get_ref().0.is_dead()
    }

    /// Registers it with the current runtime instead.
    fn register_here(&mut self) -> Result<()> {
        let pidfd = Arc::clone(&self.registered.get_ref().0);
        *self = Self::new(pidfd)
            .map_err(|error| Error::os("failed to wait for a pidfd in tokio", error))?;
        Ok(())
    }

    /// Reports whether every thread of the process is dead; the task is woken when it is.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // A task that is polled outside of any runtime is woken by the runtime that it was registered with.
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
                            "the tokio runtime in which a process is waited for has ended: wait in another one",
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
