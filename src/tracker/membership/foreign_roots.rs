//! Which processes other instances are responsible for, according to the ledger.
//!
//! An instance counts unless it is known to be dead: where that cannot be determined, its processes are left to it as well.

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
    // A PID that belonged to a dead instance may have been reused by the tree itself.
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

/// Returns what other instances are responsible for, and the processes that were registered with this one: a process that
/// another process started is a task of its own, whatever its parent is. `targets`: the rows that are to be ended.
pub(in crate::tracker) fn foreign_roots(
    core: &Core,
    targets: &[ProcessId],
) -> Result<Vec<Foreign>> {
    let mut foreign = Vec::new();
    let registered = core.registry.registered_except(targets);
    if !registered.is_empty() {
        foreign.push(Foreign { instance: core.own_pid(), processes: registered });
    }
    let own = Some(core.instance.id);
    for instance in responsible_instances(&core.store, &core.proc, core.pid_scope(), own)? {
        let theirs = core.store.live_of(instance.id)?;
        let processes = theirs.iter().filter(|row| !targets.contains(&row.id));
        let processes = processes.map(ProcessRecord::pid).collect();
        foreign.push(Foreign { instance: instance.identity.pid, processes });
    }
    Ok(foreign)
}
