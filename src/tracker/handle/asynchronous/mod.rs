//! The same operations as futures, in a tokio runtime.
//!
//! - [`process`]: waiting for one program; [`output`]: and for all of its output;
//! - [`set`]: waiting for many programs, and ending them together;
//! - [`subscription`]: ends, survivors and leaks;
//! - [`tracker`]: spawning, ending, and whatever else has to leave the runtime's threads.
//!
//! A wait is one registration of the program's pidfd (`pidfd_open(2)`: readable once the process is dead) with the runtime's
//! own epoll: no thread, no signal handler, no timer. The end itself is recorded by the monitor, as always, and a waiter is
//! woken when it is. Blocking operations, such as a spawn, which waits for a commit, or an end, which waits for a grace, run on
//! the runtime's blocking pool, and continue there when their future is dropped: an operation that has begun is completed and
//! recorded, even if its caller does not wait for it any more.

mod output;
mod process;
mod read_so_far;
mod set;
mod subscription;
mod tracker;

pub use output::AsyncCommunicator;
pub use process::AsyncProcess;
pub use set::ProcessSet;
pub use subscription::AsyncSubscription;
pub use tracker::AsyncTracker;

use crate::error::{Error, Kind, Result};

/// Runs a blocking operation off the runtime's threads. It continues when the future is dropped.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(
                Kind::Closed,
                "the tokio runtime is shutting down: no new operation can be started in it",
            )),
        },
    }
}
