//! The same verbs as futures, in a tokio runtime.
//!
//! - [`process`]: waiting for one program; [`output`]: and for all that it prints;
//! - [`tracker`]: spawning, ending, and whatever else has to leave the runtime's threads.
//!
//! A wait is one registration of the program's pidfd (`pidfd_open(2)`: readable once the process is dead) with the
//! runtime's own epoll: no thread, no signal handler, no timer. The end itself is recorded by the monitor, as ever, and a
//! waiter is woken when it is. What blocks, such as a spawn, which waits for a commit, or an end, which waits for a grace,
//! runs on the runtime's blocking pool, and goes on there when its future is dropped: what was begun is finished and
//! recorded, whoever has lost interest.

mod output;
mod process;
mod read_so_far;
mod tracker;

pub use process::AsyncProcess;
pub use tracker::AsyncTracker;

use crate::error::{Error, Kind, Result};

/// Runs something that blocks, off the runtime's threads. It goes on when the future is dropped.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(
                Kind::Closed,
                "the tokio runtime is shutting down: nothing more is started there",
            )),
        },
    }
}
