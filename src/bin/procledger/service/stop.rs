//! The pipe by which a service is asked to stop: by a signal, by its supervisor, or because its
//! output is closed.

use std::{os::fd::OwnedFd, thread, time::Duration};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::{
    exit::{Exit, Failure, Result},
    output,
    signals::Signals,
    threads,
};

/// A watch normally stops within milliseconds of the request, or after the pass that it is in.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Creates the pipe: its first end is readable once a stop was requested by [`ask_to_stop`] on its
/// second.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Failure::because("failed to create a pipe", &error))
}

/// Duplicates an end of the pipe, for another thread.
pub(crate) fn copy(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(|error| Failure::because("failed to copy a descriptor", &error))
}

/// Requests a stop on a signal. With `is_limited`, exits after [`STOP_LIMIT`] if the watch has not
/// stopped by then: on a dead mount a system call does not return, and a pass waits for the grace
/// periods of its trees. The next instance takes over what it had claimed, as after a crash.
pub(crate) fn stop_on_a_signal(signals: Signals, stopper: OwnedFd, is_limited: bool) -> Result<()> {
    threads::start("procledger-signals", move || {
        // Stop on an error as well: otherwise it could never be stopped.
        let _ = signals.next();
        ask_to_stop(&stopper);
        if is_limited {
            thread::sleep(STOP_LIMIT);
            output::warn(
                "the watch did not stop within 5 s and exits now: the next instance completes its work",
            );
            output::flush();
            std::process::exit(Exit::FAILED.code());
        }
    })
}

/// Makes the other end of the pipe readable.
pub(crate) fn ask_to_stop(stopper: &OwnedFd) {
    // It fails only once the watch has ended.
    let _ = rustix::io::write(stopper, b"x");
}
