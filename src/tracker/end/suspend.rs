//! Suspends trees, and resumes them.
//!
//! A suspended tree belongs to its tracker like any other: it is ended at shutdown, by its limits
//! and after a crash, and is resumed for that. A tree that a tracker gives up is resumed first,
//! since it would otherwise stay suspended forever.

use super::{
    context, run,
    signal_tree::{check_alive, tree_of},
};
use crate::{
    error::{Error, Kind, Result},
    model::State,
    tracker::{core::Core, runtime::tracked::Tracked},
};

/// Suspends all members of a tree; see [`Process::suspend`](crate::Process::suspend).
pub(in crate::tracker) fn suspend(core: &Core, entry: &Tracked) -> Result<usize> {
    check_alive(core, entry)?;
    let pid = entry.root.identity.pid;
    let ending = || Error::new(Kind::Busy, format!("process {pid} is being ended"));
    if entry.is_being_ended() {
        return Err(ending());
    }
    // Set before the first of them is stopped, so that the tree is resumed if it is released from
    // now on.
    entry.set_suspended(true);
    let context = context::context(core, &[entry.root.row]);
    let suspended = context.and_then(|context| run::suspend_tree(&context, tree_of(core, entry)?));
    // An end that begins later resumes the members; an end that has begun meanwhile may have done
    // so before they were stopped.
    let row = core.store.process(entry.root.row);
    let is_free = row.map(|row| row.is_some_and(|row| row.life.state() != State::Ending));
    let suspended = match is_free {
        Ok(true) if !entry.is_being_ended() => suspended,
        Ok(_) => suspended.and(Err(ending())),
        Err(error) => suspended.and(Err(error)),
    };
    if suspended.is_err() {
        resume_if_suspended(core, entry);
    }
    suspended
}

/// Resumes all members of a tree; see [`Process::resume`](crate::Process::resume).
pub(in crate::tracker) fn resume(core: &Core, entry: &Tracked) -> Result<usize> {
    check_alive(core, entry)?;
    resume_members(core, entry)
}

/// Resumes a tree that was suspended here and is given up.
pub(super) fn resume_if_suspended(core: &Core, entry: &Tracked) {
    if entry.is_suspended()
        && let Err(error) = resume_members(core, entry)
    {
        let pid = entry.root.identity.pid;
        tracing::error!("failed to resume the suspended tree of process {pid}: {error}");
    }
}

fn resume_members(core: &Core, entry: &Tracked) -> Result<usize> {
    let context = context::context(core, &[entry.root.row])?;
    let mut tree = tree_of(core, entry)?;
    // Strays that are left running now were members when the tree was suspended.
    tree.exemptions.before.clear();
    let resumed = run::resume_tree(&context, tree)?;
    entry.set_suspended(false);
    Ok(resumed)
}
