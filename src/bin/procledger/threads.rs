//! Threads of the command.
//!
//! `std::thread::spawn` panics if the kernel cannot create a thread, as under `ulimit -u` or
//! `pids.max`. That is a condition to report in one line, so each thread is started here, and
//! before the work that needs it has begun.

use std::{
    io,
    thread::{Builder, Scope},
};

use nix::errno::Errno;

use crate::exit::{Failure, Result};

/// Starts a thread that is not waited for.
///
/// # Errors
///
/// If no thread can be created (`pthread_create(3)`: a limit of the user or of the cgroup, or no
/// memory for its stack).
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(|error| failed(&error))
}

/// Starts a thread that is waited for where `scope` ends.
///
/// # Errors
///
/// As for [`start`].
pub(crate) fn start_in<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> Result<()> {
    let started = Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
    started.map(drop).map_err(|error| failed(&error))
}

fn failed(error: &io::Error) -> Failure {
    let what = if error.raw_os_error() == Some(Errno::EAGAIN as i32) {
        "failed to start a thread (`ulimit -u`, a cgroup's pids.max or memory is used up)"
    } else {
        "failed to start a thread"
    };
    Failure::because(what, error)
}
