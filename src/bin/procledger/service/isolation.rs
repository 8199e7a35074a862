//! Limits what a worker process inherits: nothing of root's, since it becomes another user.

use nix::unistd::geteuid;

use crate::{
    exit::{Failure, Result},
    inherited_fds::Inherited,
};

/// The variables of a worker's environment. The environment of a service may contain secrets of
/// root's, and a worker acts as another user. The token is kept: a tracker that runs the whole
/// watch as a task recognizes the task's processes by it.
pub(super) const ENVIRONMENT: [&str; 3] = ["PROCLEDGER_LOG", "PROCLEDGER_TOKEN", "TZ"];

/// Makes this process, a worker, ready to become another user: closes what it has inherited, and
/// hides root's memory and environment from that user. Must be called before anything else, and
/// while no other thread runs.
pub(crate) fn shed_inherited() -> Result<()> {
    let failed = |error| Failure::because("failed to begin as a worker", &error);
    Inherited::list().map_err(failed)?.close();
    // An ordinary user's workers already belong to that user, and trackers read from their
    // environment to which task they belong.
    if geteuid().is_root() {
        nix::sys::prctl::set_dumpable(false).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}
