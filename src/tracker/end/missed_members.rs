//! Members of trees of ours that another instance missed when it ended those trees.
//!
//! The owner of a tree records members while it runs. A member that it records at the moment at
//! which another instance claims the tree has a row that the claim does not contain. The health
//! pass ends such members; this is for an owner that stops before its next pass.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use super::{
    claimed_trees,
    outcome::{self, Conclusion},
};
use crate::{
    error::Result,
    model::{End, EndReason, Life, Millis, ProcessId, ProcessRecord, Rule, State},
    sys::{Pinned, Probe},
    tracker::{core::Core, runtime::cause::Cause},
};

/// Returns whether this is the row of a member that no instance is ending, although another one has
/// ended its tree by a `kill`; `live` are all live rows. A root that was released, or has ended by
/// itself, may have left it on purpose.
pub(in crate::tracker) fn is_missed(
    core: &Core,
    row: &ProcessRecord,
    live: &HashSet<ProcessId>,
) -> bool {
    row.life.state() == State::Running
        && row.last_error.is_none()
        && row.spec.root.is_some_and(|root| !live.contains(&root) && killer(core, root).is_some())
}

/// Returns the cause for which missed members are ended: the `kill` that ended their tree.
pub(in crate::tracker) fn cause(core: &Core, row: &ProcessRecord) -> Cause {
    match row.spec.root.and_then(|root| killer(core, root)) {
        Some(person) => {
            Cause { reason: EndReason::Killed, leak: None, rule: Rule::PersonAsked(person) }
        }
        None => Cause::stray(),
    }
}

/// Returns the person at whose request a root was killed.
fn killer(core: &Core, root: ProcessId) -> Option<String> {
    let root = core.store.process(root).ok().flatten()?;
    let is_killed = matches!(&root.life, Life::Ended(end) if end.reason == EndReason::Killed);
    root.requested_by.filter(|_| is_killed)
}

/// Ends missed members, and closes the rows of those that are gone. Nothing is tracked any more.
pub(in crate::tracker) fn end_missed_members(core: &Core) {
    if !core.recorded_members.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = try_end_missed_members(core) {
        // The rows belong to an instance that has stopped, so the next orphan pass handles them.
        tracing::error!("failed to end the processes that another instance missed: {error}");
    }
}

fn try_end_missed_members(core: &Core) -> Result<()> {
    let own = core.instance.id;
    let rows = core.store.live_of(own)?;
    let live = rows.iter().map(|row| row.id).collect();
    let mut alive = Vec::new();
    for row in rows.into_iter().filter(|row| is_missed(core, row, &live)) {
        match Pinned::probe(&core.proc, core.pid_scope(), &row.spec.identity) {
            Probe::Zombie(_) | Probe::Gone => {
                // It was ended without its row, or ended by itself.
                let end = End::unobserved(EndReason::Gone, Millis::now());
                core.store.end(row.id, State::Running, end, None)?;
            }
            Probe::Alive(_) | Probe::Unknown(_) => alive.push(row.id),
        }
    }
    let claimed = core.store.claim(&alive, own, Some(own), None)?;
    let causes: HashMap<ProcessId, Cause> =
        claimed.iter().map(|row| (row.id, cause(core, row))).collect();
    let cause_of = |row| causes.get(&row).cloned().unwrap_or_else(Cause::stray);
    let Conclusion { settled, .. } = claimed_trees::end_claimed_each(core, &cause_of, claimed);
    outcome::write(core, None, settled)
}
