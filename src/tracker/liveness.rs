//! Is an instance dead?
//!
//! Two witnesses must agree: its lock is free, and its identity is gone. The kernel drops the lock at death, whatever
//! killed it and across namespaces; the identity survives a lock file that somebody deleted. A row that came with a copy of
//! the ledger proves nothing: its instance may live beside the original.

use std::{
    collections::HashSet,
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use super::shared::Shared;
use crate::{
    identity::{Place, Reach},
    os::{
        Pinned, Probe, Proc,
        lock::{LockState, discard, probe},
    },
    record::{DeadInstance, EndReason, InstanceRecord, StopHow},
    store::Store,
};

/// How long the lock of a dead host is waited for: a child at its gate has a copy of it until PDEATHSIG strikes, which takes
/// microseconds, and tens of milliseconds where the machine is starved.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// What is known of an instance.
#[derive(Debug)]
pub(super) enum Life {
    /// It lives, or nothing proves that it does not.
    Alive,
    /// It is dead, or has stopped.
    Dead(DeadInstance),
    /// It cannot be told from here. With the reason.
    Unknown(String),
}

/// What the lock file of an instance shows.
pub(super) fn lock_state(
    store: &Store,
    instance: &InstanceRecord,
) -> crate::error::Result<LockState> {
    let _acting = store.act_as_owner()?;
    probe(&lock_path(store, instance), store.owner_uid())
}

/// Judges an instance by its lock and its identity.
pub(super) fn judge(store: &Store, proc: &Proc, here: Place, instance: &InstanceRecord) -> Life {
    let dead =
        |how, processes_gone| Life::Dead(DeadInstance { id: instance.id, how, processes_gone });
    let lock = match lock_state(store, instance) {
        Ok(LockState::Held) => return Life::Alive,
        Ok(state) => state,
        Err(error) => return Life::Unknown(error.to_string()),
    };
    let reach = here.reach(&instance.identity.place);
    if reach == Reach::Gone {
        return dead(StopHow::Rebooted, Some(EndReason::Rebooted));
    }
    if instance.ledger_file != store.file() {
        return Life::Unknown("its rows came with a copy of the ledger that it opened".into());
    }
    if instance.stopped_at.is_some() {
        // It stopped and said so; what it left is an orphan, if it can be looked at from here.
        return match reach {
            Reach::Here => dead(StopHow::Clean, None),
            Reach::Gone | Reach::Elsewhere => Life::Unknown("it ran in another place".into()),
        };
    }
    if reach == Reach::Elsewhere {
        // pid_namespaces(7): when the first process of a namespace ends, all others in it are killed.
        let there = instance.identity.place;
        let was_init = instance.identity.pid.get() == 1
            && here.boot_id == there.boot_id
            && here.pid_namespace != there.pid_namespace;
        return if was_init && lock == LockState::Free {
            dead(StopHow::Crashed, Some(EndReason::Gone))
        } else {
            Life::Unknown("it ran on another machine, or in another PID namespace".into())
        };
    }
    match Pinned::probe(proc, here, &instance.identity) {
        Probe::Alive(_) => Life::Alive,
        Probe::Zombie(_) | Probe::Gone => dead(StopHow::Crashed, None),
        Probe::Unknown(error) => Life::Unknown(error.to_string()),
    }
}

pub(super) fn lock_path(store: &Store, instance: &InstanceRecord) -> std::path::PathBuf {
    // A name from the ledger is data: only its last part counts, so it cannot lead elsewhere.
    let name = Path::new(&instance.lock_name).file_name().unwrap_or_default();
    store.path().with_file_name(name)
}

/// A new name for the lock file of an instance.
pub(super) fn new_lock_name(ledger: &Path) -> String {
    format!("{}{}.lock", lock_prefix(ledger), uuid::Uuid::new_v4().simple())
}

/// What the names of the lock files of a ledger's instances begin with.
pub(super) fn lock_prefix(ledger: &Path) -> String {
    format!("{}-instance-", ledger.file_name().unwrap_or_default().to_string_lossy())
}

/// Whether a file beside the ledger has the name of an instance's lock.
pub(super) fn is_lock_name(ledger: &Path, name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(&lock_prefix(ledger)))
}

/// Whether it is exactly such a name as [`new_lock_name`] makes.
fn is_made_lock_name(ledger: &Path, name: &str) -> bool {
    let random =
        name.strip_prefix(&lock_prefix(ledger)).and_then(|rest| rest.strip_suffix(".lock"));
    random.is_some_and(|random| {
        random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Shared {
    /// Judges every other instance as [`Self::judge_others`] does, once the locks of those that have just died are free.
    ///
    /// What holds such a lock for longer is no child at a gate. It is left alone, and told.
    pub(super) fn judge_others_at_rest(&self) -> crate::error::Result<Vec<(InstanceRecord, Life)>> {
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let mut others = self.judge_others()?;
            let mut lingers = false;
            for (instance, life) in &mut others {
                if matches!(life, Life::Alive) && self.is_gone(instance) {
                    lingers = true;
                    *life = Life::Unknown(
                        "its process is gone, but its lock is still held, as by a process that it has forked".into(),
                    );
                }
            }
            if !lingers || Instant::now() >= deadline {
                return Ok(others);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// Whether the process of an instance of this place is not there any more, whatever its lock says.
    fn is_gone(&self, instance: &InstanceRecord) -> bool {
        let here = self.place();
        here.reach(&instance.identity.place) == Reach::Here
            && matches!(
                Pinned::probe(&self.proc, here, &instance.identity),
                Probe::Zombie(_) | Probe::Gone
            )
    }

    /// Removes the lock files that no instance is judged by any more and that nobody holds: of those that died before they
    /// were recorded, and of those whose reaper died before it had removed theirs.
    pub(super) fn remove_stale_locks(&self) {
        let ledger = self.store.path();
        let Ok(_acting) = self.store.act_as_owner() else { return };
        let Ok(instances) = self.store.instances_to_judge() else { return };
        let needed: HashSet<&str> =
            instances.iter().map(|instance| instance.lock_name.as_str()).collect();
        let folder = ledger.parent().and_then(|folder| folder.read_dir().ok());
        for name in folder.into_iter().flatten().flatten().map(|found| found.file_name()) {
            let stale = |name: &&str| is_made_lock_name(ledger, name) && !needed.contains(name);
            if let Some(name) = name.to_str().filter(stale) {
                discard(&ledger.with_file_name(name));
            }
        }
    }

    /// Judges every other instance that is not known to have stopped, or that left something.
    pub(super) fn judge_others(&self) -> crate::error::Result<Vec<(InstanceRecord, Life)>> {
        let others =
            self.store.instances_to_judge()?.into_iter().filter(|other| other.id != self.instance);
        Ok(others
            .map(|other| {
                let life = judge(&self.store, &self.proc, self.place(), &other);
                (other, life)
            })
            .collect())
    }
}
