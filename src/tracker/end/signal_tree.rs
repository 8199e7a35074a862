//! Signals the whole tree of a program without ending it.

use super::{
    context,
    run::{self, TreeTarget},
    spared::exemptions_of,
    strays,
};
use crate::{
    error::{Error, Kind, Result},
    store::RecordedDescendants,
    sys::Signal,
    tracker::{core::Core, runtime::tracked::Tracked},
};

/// Sends a signal to all members of a tree; see
/// [`Process::signal_tree`](crate::Process::signal_tree).
pub(in crate::tracker) fn signal_tree(core: &Core, entry: &Tracked, signal: i32) -> Result<usize> {
    let signal = Signal::from_number(signal).ok_or_else(|| {
        Error::invalid(format!("{signal} is not a signal number: use 1 to {}", Signal::LAST))
    })?;
    check_alive(core, entry)?;
    run::signal_tree(&context::context(core, &[entry.root.row])?, tree_of(core, entry)?, signal)
}

/// Fails if the root has ended, or the tracker is closed.
pub(super) fn check_alive(core: &Core, entry: &Tracked) -> Result<()> {
    core.instance.check_usable()?;
    let pid = entry.root.identity.pid;
    let is_dead =
        entry.open_pidfd(&core.proc, core.pid_scope()).map_or(Ok(true), |fd| fd.is_dead());
    if entry.is_recorded() || is_dead? {
        return Err(Error::new(Kind::Gone, format!("process {pid} has ended")));
    }
    Ok(())
}

/// Returns a tree with its recorded descendants.
pub(super) fn tree_of(core: &Core, entry: &Tracked) -> Result<TreeTarget> {
    let row = entry.root.row;
    let RecordedDescendants { live, spared } =
        core.store.descendants(&[row])?.remove(&row).unwrap_or_default();
    Ok(TreeTarget {
        exemptions: exemptions_of(entry, spared),
        recorded: strays::some_rows(live),
        ..strays::tree_of(entry, None)
    })
}
