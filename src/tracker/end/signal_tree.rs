//! A signal to the whole tree of a program that runs on.

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

/// Sends a signal to all members of a tree; see [`Process::signal_tree`](crate::Process::signal_tree).
pub(in crate::tracker) fn signal_tree(core: &Core, entry: &Tracked, signal: i32) -> Result<usize> {
    let signal = Signal::from_number(signal).ok_or_else(|| {
        Error::invalid(format!("{signal} is not a signal number: use 1 to {}", Signal::LAST))
    })?;
    core.instance.check_usable()?;
    let pid = entry.root.identity.pid;
    let is_dead = entry.open_pidfd(&core.proc, core.place()).map_or(Ok(true), |fd| fd.is_dead());
    if entry.is_recorded() || is_dead? {
        return Err(Error::new(Kind::Gone, format!("process {pid} has ended")));
    }
    let row = entry.root.row;
    let RecordedDescendants { live, spared } =
        core.store.descendants(&[row])?.remove(&row).unwrap_or_default();
    let tree = TreeTarget {
        exemptions: exemptions_of(entry, spared),
        recorded: strays::some_rows(live),
        ..strays::tree_of(entry, None)
    };
    run::signal_tree(&context::context(core, &[row])?, tree, signal)
}
