//! The same operations as futures, in a tokio runtime.
//!
//! - [`process`]: waiting for one program; [`output`]: waiting for it and all of its output;
//! - [`set`]: waiting for many programs, and ending them together;
//! - [`subscription`]: ends, survivors and leaks;
//! - [`tracker`]: spawning, ending, and other operations that must not block the runtime's threads.
//!
//! For a wait the program's pidfd (`pidfd_open(2)`: readable once the process is dead) is
//! registered with the runtime's own epoll; there is no thread, no signal handler and no timer. The
//! monitor records the end, as always, and then wakes the waiter. Blocking operations, such as a
//! spawn, which waits for a commit, or an end, which waits for a grace, run on the runtime's
//! blocking pool, and continue there if their future is dropped: an operation that has begun is
//! completed and recorded, even if its caller no longer waits for it.

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

/// Runs a blocking operation on the runtime's blocking pool. It continues if the future is dropped.
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
