//! Checks the other instances of the ledger.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    instance::Instance,
    liveness::{Liveness, LivenessCheck, is_made_lock_name},
};
use crate::{
    error::Result,
    model::InstanceRecord,
    store::Store,
    sys::{Proc, file_lock::discard},
};

/// How long to wait for the lock of a dead host: a child at its gate holds a copy of it until it
/// dies by PDEATHSIG, which takes microseconds, or tens of milliseconds on an overloaded machine.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Checks every other instance that is not known to have stopped, or that left processes behind.
pub(in crate::tracker) fn check_others(
    store: &Store,
    proc: &Proc,
    own: &Instance,
) -> Result<Vec<(InstanceRecord, Liveness)>> {
    let all = store.instances_to_check()?;
    let liveness = LivenessCheck::new(store, proc, own.pid_scope());
    let others = all.iter().filter(|other| other.id != own.id);
    let checked = others.map(|other| (other.clone(), liveness.of(other, &all)));
    Ok(checked.collect())
}

/// Checks every other instance like [`check_others`], but first waits until the locks of instances
/// that have just died are free.
///
/// A lock that is held for longer is not held by a child at a gate. Its instance is not touched,
/// but reported.
pub(in crate::tracker) fn check_others_at_rest(
    store: &Store,
    proc: &Proc,
    own: &Instance,
) -> Result<Vec<(InstanceRecord, Liveness)>> {
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        let mut others = check_others(store, proc, own)?;
        let mut lingers = false;
        for (_, life) in &mut others {
            if matches!(life, Liveness::LockOutlives) {
                lingers = true;
                *life = Liveness::Unknown(
                    "its process is gone, but its lock is still held, for example by a process that it forked".into(),
                );
            }
        }
        if !lingers || Instant::now() >= deadline {
            return Ok(others);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Removes lock files that are no longer needed and that no process holds: those of instances that
/// died before they were recorded, and those whose reaper died before removing them. `names` are
/// those of the files beside the ledger, and `needed` those of locks that are certainly needed.
pub(in crate::tracker) fn remove_stale_locks(
    store: &Store,
    names: &[String],
    needed: &HashSet<String>,
) {
    let ledger = store.path();
    let may_be_stale = |name: &&String| is_made_lock_name(ledger, name) && !needed.contains(*name);
    let names: Vec<&String> = names.iter().filter(may_be_stale).collect();
    if names.is_empty() {
        return;
    }
    let Ok(_acting) = store.act_as_owner() else { return };
    let Ok(instances) = store.instances_to_check() else { return };
    let needed: HashSet<&str> =
        instances.iter().map(|instance| instance.lock_name.as_str()).collect();
    for name in names.into_iter().filter(|name| !needed.contains(name.as_str())) {
        discard(&ledger.with_file_name(name));
    }
}
