//! Determines which of our processes are alive, by the pidfds that are held.

use std::{collections::HashMap, sync::Arc};

use crate::{
    model::{ProcessId, ProcessRecord},
    sys::{PidFd, Pinned, fd_table::which_are_dead, snapshot::Snapshot},
    tracker::core::Core,
};

/// Returns our rows whose processes are alive, by the pidfds that are held, in a few system calls.
pub(in crate::tracker) fn held_alive(
    core: &Core,
    rows: &[ProcessRecord],
) -> HashMap<ProcessId, Arc<PidFd>> {
    let own = rows.iter().filter(|row| row.owner == core.instance.id);
    let (ids, fds): (Vec<ProcessId>, Vec<Arc<PidFd>>) =
        own.filter_map(|row| Some((row.id, core.registry.get(row.id)?.pidfd.clone()?))).unzip();
    // On an error each one is checked separately.
    let Ok(dead) = which_are_dead(&fds) else { return HashMap::new() };
    let all = ids.into_iter().zip(fds).zip(dead);
    all.filter_map(|(held, dead)| (!dead).then_some(held)).collect()
}

/// Returns a live process with its `stat` in the snapshot, which was taken before it was found
/// alive.
pub(in crate::tracker) fn seen_alive(
    row: &ProcessRecord,
    fd: &Arc<PidFd>,
    snapshot: &Snapshot,
) -> Option<Pinned> {
    Pinned::held(Arc::clone(fd), row.spec.identity, snapshot.get(row.pid())?)
}
