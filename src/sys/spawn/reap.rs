//! Reaping a child that never became a program.

use std::time::Duration;

use crate::sys::PidFd;

/// A child that is about to exit is dead within microseconds; this is the limit for a kernel that hangs.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the child is dead, and reaps it. It leaves our memory a moment before it becomes a zombie.
pub(super) fn reap(pidfd: &PidFd) {
    let _ = pidfd.wait_dead(EXIT_LIMIT);
    let _ = pidfd.child_status(true);
}
