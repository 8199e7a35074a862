//! `poll(2)` with a time limit, resumed after signals.

use std::time::{Duration, Instant};

use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

/// Waits until a descriptor is ready, at most `limit`; returns how many are ready.
pub(crate) fn poll_within(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<usize, Errno> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match poll(fds, left.map(timespec).as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready,
        }
    }
}

pub(crate) fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
