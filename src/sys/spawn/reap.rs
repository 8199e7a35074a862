//! Reaps a child that never became a program.

use std::time::Duration;

use crate::sys::PidFd;

/// Time limit for a child that is about to exit. It is dead within microseconds unless the kernel
/// hangs.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the child is dead, and reaps it. A child leaves our memory a moment before it
/// becomes a zombie.
pub(super) fn reap(pidfd: &PidFd) {
    let _ = pidfd.wait_dead(EXIT_LIMIT);
    let _ = pidfd.child_status(true);
}
