//! A descriptor in a tokio runtime's epoll, until it is readable.

#![expect(unsafe_code, reason = "tokio takes a descriptor on the promise that it stays open")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::error::{Error, Result};

#[derive(Debug)]
struct Open(Arc<OwnedFd>);

impl AsRawFd for Open {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits until the descriptor is readable. Cancel safe: nothing is read.
///
/// It is registered with the current runtime for this wait only, so that the next wait can be in
/// another runtime.
///
/// # Panics
///
/// If called outside a runtime, or in a runtime without I/O.
pub(crate) async fn readable(fd: &Arc<OwnedFd>) -> Result<()> {
    let failed = |error: io::Error| Error::os("failed to wait for a descriptor in tokio", error);
    // SAFETY: an `OwnedFd` never changes its descriptor and closes it only when it is dropped; the
    // `Arc` in here keeps it as long as the registration.
    let registered =
        unsafe { AsyncFd::register_with_interest(Open(Arc::clone(fd)), Interest::READABLE) };
    let registered = registered.map_err(|error| failed(error.into()))?;
    registered.readable().await.map(|_| ()).map_err(failed)
}
