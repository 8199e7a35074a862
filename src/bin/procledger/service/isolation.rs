//! What a worker process inherits: nothing of root's, since it becomes another user.

use std::{fs, io};

use nix::unistd::geteuid;

use crate::exit::{Failure, Result};

/// The variables of a worker's environment. The environment of a service may contain secrets of root's, and a worker acts as
/// another user. The token is kept: a tracker that runs the whole watch as a task recognises the task's processes by it.
pub(super) const ENVIRONMENT: [&str; 3] = ["PROCLEDGER_LOG", "PROCLEDGER_TOKEN", "TZ"];

/// Makes this process, a worker, ready to become another user: closes what it has inherited, and hides root's memory and
/// environment from that user. Must be called before anything else, and while no other thread runs.
pub(crate) fn shed_inherited() -> Result<()> {
    let failed = |error| Failure::because("failed to begin as a worker", &error);
    close_inherited().map_err(failed)?;
    // An ordinary user's workers already belong to that user, and trackers read from their environment to which task they
    // belong.
    if geteuid().is_root() {
        nix::sys::prctl::set_dumpable(false).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Closes all descriptors except the standard ones.
fn close_inherited() -> io::Result<()> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let inherited: Vec<i32> = numbers.filter(|&number| number > 2).collect();
    for number in inherited {
        // The descriptor that the list was read from is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
