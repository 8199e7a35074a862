//! Determines for which processes other instances are responsible, according to the ledger.
//!
//! An instance counts unless it is known to be dead: if that cannot be determined, its processes
//! are left to it as well.

use std::collections::HashSet;

use crate::{
    error::Result,
    identity::PidScope,
    model::{InstanceId, InstanceRecord, ProcessId, ProcessRecord},
    policy::exemption::Foreign,
    store::Store,
    sys::Proc,
    tracker::{
        core::Core,
        runtime::liveness::{Liveness, LivenessCheck},
    },
};

/// Returns whether an instance of this liveness may be responsible for processes of this machine.
pub(in crate::tracker) fn may_be_responsible(
    instance: &InstanceRecord,
    life: &Liveness,
    here: PidScope,
) -> bool {
    // The PID of a dead instance may have been reused by a process of the tree itself.
    instance.stopped_at.is_none()
        && instance.identity.scope == here
        && !matches!(life, Liveness::Dead(_))
}

/// Returns the instances, except `own`, that may be responsible for processes of this machine.
pub(in crate::tracker) fn responsible_instances(
    store: &Store,
    proc: &Proc,
    here: PidScope,
    own: Option<InstanceId>,
) -> Result<Vec<InstanceRecord>> {
    let all = store.instances_to_check()?;
    let liveness = LivenessCheck::new(store, proc, here);
    let others = all.iter().filter(|instance| Some(instance.id) != own);
    let responsible =
        others.filter(|instance| may_be_responsible(instance, &liveness.of(instance, &all), here));
    Ok(responsible.cloned().collect())
}

/// Returns the processes for which other instances are responsible, and those that were registered
/// with this one: a registered process is a separate task, whatever its parent is. `targets` are
/// the rows that are to be ended, with the trees of those that are roots: their owner may have
/// recorded a member since they were claimed.
pub(in crate::tracker) fn foreign_roots(
    core: &Core,
    targets: &[ProcessId],
) -> Result<Vec<Foreign>> {
    let targets: HashSet<ProcessId> = targets.iter().copied().collect();
    let mut foreign = Vec::new();
    let registered = core.registry.registered_except(&targets);
    if !registered.is_empty() {
        foreign.push(Foreign { instance: core.own_pid(), processes: registered });
    }
    let own = Some(core.instance.id);
    for instance in responsible_instances(&core.store, &core.proc, core.pid_scope(), own)? {
        let theirs = core.store.live_of(instance.id)?;
        let is_target = |row: &&ProcessRecord| {
            [Some(row.id), row.spec.root].into_iter().flatten().any(|id| targets.contains(&id))
        };
        let processes = theirs.iter().filter(|row| !is_target(row));
        let processes = processes.map(ProcessRecord::pid).collect();
        foreign.push(Foreign { instance: instance.identity.pid, processes });
    }
    Ok(foreign)
}
