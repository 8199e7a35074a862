//! Dismisses the keepers of trees that have ended.

use std::{sync::Arc, time::Duration};

use super::{
    keeper_end_logs,
    run::TreeTarget,
    spared::exemptions_of,
    strays::{self, tree_of},
};
use crate::{
    error::Result,
    identity::Identity,
    model::{EndReason, ProcessId, task_text},
    sys::{Pinned, Probe, keeper::KeeperClient},
    tracker::{
        core::Core,
        runtime::{keeper_handle::KeeperHandle, tracked::Tracked},
    },
};

/// Time limit for the exit of a keeper below which no process is left; it takes a millisecond.
const PART_LIMIT: Duration = Duration::from_millis(50);

/// Time limit for the exit of a keeper after a request, which it follows as soon as it is
/// scheduled.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Time limit for the kills of a keeper that ends a tree, after the grace, which is restarted for
/// at most [`GRACE_CAP`].
const END_LIMIT: Duration = Duration::from_secs(10);

const GRACE_CAP: Duration = Duration::from_secs(2);

/// Asks a keeper to leave everything below it running, and waits until it has exited.
fn send_away(client: KeeperClient) {
    client.leave();
    if let Some(client) = client.dismiss(LEAVE_LIMIT) {
        client.kill();
    }
}

/// Dismisses the keeper of a program that has ended, or is no longer ours. With `leave`, the
/// processes below it are left running.
///
/// A keeper exits by itself when no process is left below it. Otherwise this host ends the
/// processes that it finds, then waits for the keeper to end the others. If processes are spared on
/// purpose, such as those of another task, the keeper is instructed to leave them: a keeper never
/// ends processes that its living host has decided to spare.
pub(in crate::tracker) fn part_with_keeper(core: &Core, entry: &Arc<Tracked>, leave: bool) {
    reap_departing(core);
    let Some(client) = entry.keeper.as_deref().and_then(KeeperHandle::take) else { return };
    if leave {
        return send_away(client);
    }
    if client.wait_dead(PART_LIMIT) {
        let _ = client.dismiss(Duration::ZERO);
    } else if is_of_another(core, entry.root.row) {
        // Another instance is ending the tree. The keeper contains it until that is done.
        core.keepers.departing.push((Arc::clone(entry), client));
    } else {
        end_unseen(core, entry);
        dismiss_keeper(core, entry, client);
    }
}

/// Lets a keeper end the processes left below it, unless they are spared on purpose.
fn dismiss_keeper(core: &Core, entry: &Tracked, client: KeeperClient) {
    if client.wait_dead(PART_LIMIT) {
        let _ = client.dismiss(Duration::ZERO);
        return;
    }
    if is_released(core, entry.root.row) || spares_below(core, entry, &client) {
        return send_away(client);
    }
    let grace = entry.root.asking_time().max(GRACE_CAP);
    match client.dismiss(grace + END_LIMIT) {
        None => keeper_end_logs::record_ended_by_keeper(core, &entry.root),
        Some(client) => {
            tracing::error!(
                "the keeper of task {} does not end its remaining processes, killing the keeper",
                task_text(entry.root.task.as_ref())
            );
            client.kill();
        }
    }
}

/// Returns whether a process that is spared on purpose is alive below a keeper: a kept part of its
/// tree, another task, or another instance. If that is unknown, nothing is ended on a guess.
fn spares_below(core: &Core, entry: &Tracked, client: &KeeperClient) -> bool {
    let root = entry.root.row;
    let looked = || -> Result<bool> {
        let spared = core.store.descendants(&[root])?.into_values().flat_map(|it| it.spared);
        let instances = core.store.instances_to_check()?.into_iter().map(|it| it.identity);
        // Rows of this tree may have another owner: the instance that is, or was, ending it.
        let others = core.store.live()?.into_iter();
        let others = others.filter(|row| row.spec.root.unwrap_or(row.id) != root);
        let spared: Vec<Identity> =
            spared.chain(instances).chain(others.map(|row| row.spec.identity)).collect();
        let below = core.proc.snapshot()?.below(client.pid());
        let lives = |it: &Identity| {
            matches!(Pinned::probe(&core.proc, core.pid_scope(), it), Probe::Alive(_))
        };
        Ok(spared.iter().any(|it| below.contains(&it.pid) && lives(it)))
    };
    looked().unwrap_or_else(|error| {
        tracing::error!(
            "failed to determine which processes a task may leave: {error}; leaving them running"
        );
        true
    })
}

fn end_unseen(core: &Core, entry: &Tracked) {
    match core.store.descendants(&[entry.root.row]) {
        Ok(descendants) => {
            let spared = descendants.into_values().flat_map(|it| it.spared).collect();
            let exemptions = exemptions_of(entry, spared);
            strays::end_strays_of(core, vec![TreeTarget { exemptions, ..tree_of(entry, None) }]);
        }
        // It is unknown which processes must be left running.
        Err(error) => {
            tracing::error!("failed to search for further processes that a task left: {error}");
        }
    }
}

/// Dismisses the keepers of trees that another instance was ending, once that is done.
pub(in crate::tracker) fn reap_departing(core: &Core) {
    let departing = core.keepers.departing.take();
    for (entry, client) in departing {
        if client.is_dead() {
            let _ = client.dismiss(Duration::ZERO);
        } else if is_of_another(core, entry.root.row) {
            core.keepers.departing.push((entry, client));
        } else {
            dismiss_keeper(core, &entry, client);
        }
    }
}

/// Dismisses them when this host stops.
pub(in crate::tracker) fn dismiss_departing(core: &Core) {
    let departing = core.keepers.departing.take();
    for (entry, client) in departing {
        dismiss_keeper(core, &entry, client);
    }
}

/// Returns whether another instance is ending a row of ours.
fn is_of_another(core: &Core, row: ProcessId) -> bool {
    let record = core.store.process(row).ok().flatten();
    record.and_then(|record| record.life.claimed_by()).is_some_and(|by| by != core.instance.id)
}

/// Returns whether the processes that a program left need no more handling, because its row was
/// released, or closed by a person.
pub(in crate::tracker) fn is_released(core: &Core, row: ProcessId) -> bool {
    let record = core.store.process(row).ok().flatten();
    let end = record.as_ref().and_then(|record| record.life.end());
    end.is_some_and(|end| matches!(end.reason, EndReason::Released | EndReason::Forgotten))
}
