//! The kernel's clocks: time since boot, and the processor time of a thread (`clock_gettime(2)`).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Returns the time since boot, suspended time included: the clock of start ticks.
pub(crate) fn boot_clock() -> Duration {
    clock(ClockId::Boottime)
}

/// Returns the time since boot, suspended time excluded: the clock of the kernel's process events.
pub(crate) fn monotonic_clock() -> Duration {
    clock(ClockId::Monotonic)
}

/// Returns the processor time of the calling thread.
pub(crate) fn thread_clock() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Returns how long the machine was suspended since boot. Both clocks are read three times: being
/// preempted in between adds to the difference, and never subtracts from it.
pub(crate) fn boot_minus_monotonic() -> Duration {
    let read = || {
        let monotonic = monotonic_clock();
        boot_clock().saturating_sub(monotonic)
    };
    read().min(read()).min(read())
}
