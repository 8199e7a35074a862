//! Waits until one of many descriptors is readable (epoll(7)); and a descriptor by which one thread
//! wakes another (eventfd(2)).

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
};

use super::poll::timespec;

/// Maximum number of descriptors that one wait reports.
pub(crate) const EVENTS: usize = 256;
/// Level-triggered, so that a descriptor that was reported and is still readable is reported again
/// after [`Readiness::rearm`].
const ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// A set of descriptors, each with a key. Any thread may change it while another one waits, since
/// the kernel does the locking.
#[derive(Debug)]
pub(crate) struct Readiness(OwnedFd);

impl Readiness {
    pub(crate) fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    /// Adds a descriptor that is reported whenever it is readable.
    pub(crate) fn add(&self, fd: impl AsFd, key: u64) -> Result<(), Errno> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)
    }

    /// Adds a descriptor that is reported once.
    pub(crate) fn add_once(&self, fd: impl AsFd, key: u64) -> Result<(), Errno> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(key), ONCE)
    }

    /// Makes a descriptor of [`add_once`](Self::add_once) be reported once more.
    pub(crate) fn rearm(&self, fd: impl AsFd, key: u64) -> Result<(), Errno> {
        epoll::modify(&self.0, fd, epoll::EventData::new_u64(key), ONCE)
    }

    /// Removes a descriptor. Closing a descriptor removes it as well, unless it was duplicated.
    pub(crate) fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&self.0, fd)
    }

    /// Waits until a descriptor is readable, at most `limit`; returns the keys of up to [`EVENTS`]
    /// readable descriptors, or none if a signal interrupted the wait.
    pub(crate) fn wait(&self, limit: Duration) -> Result<Vec<u64>, Errno> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.0, spare, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        // The structure is packed, so the field is copied before use.
        let key = |event: &epoll::Event| {
            let data = event.data;
            data.u64()
        };
        Ok(events.iter().map(key).collect())
    }
}

/// A descriptor that is readable from a call of `wake` until it is cleared.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> Result<Self, Errno> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    pub(crate) fn wake(&self) {
        // If the counter is full, the waiter has not yet woken up from earlier calls.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.0, &mut counter);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
