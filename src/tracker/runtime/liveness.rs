//! Determines whether an instance is dead.
//!
//! Two facts must agree: its lock is free, and its identity is gone. The kernel releases the lock
//! at death, whatever the cause, and across namespaces; the identity remains valid even if the lock
//! file was deleted. A row in a copy of the ledger proves nothing, since its instance may still be
//! running with the original.
//!
//! execve(2) ends an instance just like a death, but keeps its identity. In that case a third fact
//! decides, which the instance wrote to its lock file: the program image that its process ran.
//!
//! The identity of an instance in another PID namespace cannot be checked. Such an instance is
//! dead, with all its processes, once no process is in that namespace any more.

use std::{
    cell::OnceCell,
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::lock::lock;
use crate::{
    error::Result,
    identity::{Pid, PidScope, Reach},
    model::{DeadInstance, EndReason, InstanceRecord, RuleKey, StopHow},
    store::Store,
    sys::{
        Pinned, Presence, Proc,
        file_lock::{LockState, probe, probe_file},
        lock_note::{Note, NotedCaller, note_in, read_note},
        pid_namespaces::Namespaces,
        presence,
    },
};

/// Whether an instance is alive.
#[derive(Debug)]
pub(in crate::tracker) enum Liveness {
    /// It is alive, or nothing proves that it is not.
    Alive,
    /// Its process is gone, but its lock is still held, for example by a process that it forked.
    LockOutlives,
    /// It is dead, or has stopped.
    Dead(DeadInstance),
    /// This cannot be determined from here. With the reason.
    Unknown(String),
}

/// Returns the state of an instance's lock file.
pub(in crate::tracker) fn lock_state(
    store: &Store,
    instance: &InstanceRecord,
) -> crate::error::Result<LockState> {
    let _acting = store.act_as_owner()?;
    probe(&lock_path(store, instance), store.owner_uid())
}

/// Returns the rule by which the processes of a dead or replaced instance are orphans.
pub(in crate::tracker) fn orphan_rule(replaced: bool) -> RuleKey {
    if replaced { RuleKey::InstanceReplaced } else { RuleKey::InstanceDead }
}

/// Determines whether instances are dead, by their locks and identities; created anew for each
/// pass.
pub(in crate::tracker) struct LivenessCheck<'a> {
    store: &'a Store,
    proc: &'a Proc,
    here: PidScope,
    /// Scanned once, and only if an instance ran in another PID namespace.
    namespaces: OnceCell<Result<Namespaces>>,
}

impl<'a> LivenessCheck<'a> {
    pub(in crate::tracker) fn new(store: &'a Store, proc: &'a Proc, here: PidScope) -> Self {
        Self { store, proc, here, namespaces: OnceCell::new() }
    }

    /// Returns the liveness of one of `all` instances, which were listed before this check was
    /// created.
    pub(in crate::tracker) fn of(
        &self,
        instance: &InstanceRecord,
        all: &[InstanceRecord],
    ) -> Liveness {
        let dead = |how, processes_gone| {
            let id = instance.id;
            Liveness::Dead(DeadInstance { id, how, processes_gone, replaced: false })
        };
        let reach = self.here.reach(&instance.identity.scope);
        let is_copy = instance.ledger_file != self.store.file();
        let (lock, held) = match self.probe_lock(instance) {
            // Even then the instance is dead if its process has executed another program.
            Ok((LockState::Held, _)) if reach != Reach::Here => return Liveness::Alive,
            Ok((LockState::Held, _)) if is_copy => return self.check_held(instance),
            Ok(probed) => probed,
            Err(error) => return Liveness::Unknown(error.to_string()),
        };
        if reach == Reach::Gone {
            return dead(StopHow::Rebooted, Some(EndReason::Rebooted));
        }
        if is_copy {
            return Liveness::Unknown("this ledger is a copy of the one that it opened".into());
        }
        if reach == Reach::Elsewhere {
            return match self.check_elsewhere(instance, lock, all) {
                Ok(()) => {
                    let how = instance.stopped_how.unwrap_or(StopHow::Crashed);
                    dead(how, Some(EndReason::Gone))
                }
                Err(why) => Liveness::Unknown(why),
            };
        }
        if lock != LockState::Held && instance.stopped_at.is_some() {
            // It recorded that it stopped; the processes that it left are orphans.
            return dead(StopHow::Clean, None);
        }
        match presence(self.proc, self.here, &instance.identity) {
            Presence::Alive => self.check_living(instance, lock, held.as_ref()),
            Presence::Gone if lock == LockState::Held => Liveness::LockOutlives,
            Presence::Unknown(_) if lock == LockState::Held => Liveness::Alive,
            Presence::Gone => dead(StopHow::Crashed, None),
            Presence::Unknown(error) => Liveness::Unknown(error.to_string()),
        }
    }

    fn probe_lock(&self, instance: &InstanceRecord) -> Result<(LockState, Option<File>)> {
        let _acting = self.store.act_as_owner()?;
        probe_file(&lock_path(self.store, instance), self.store.owner_uid())
    }

    /// Checks an instance by its process alone, while its lock is held.
    fn check_held(&self, instance: &InstanceRecord) -> Liveness {
        match presence(self.proc, self.here, &instance.identity) {
            Presence::Gone => Liveness::LockOutlives,
            Presence::Alive | Presence::Unknown(_) => Liveness::Alive,
        }
    }

    /// Reads the note in the instance's lock file.
    fn note_of(&self, instance: &InstanceRecord) -> Option<Note> {
        read_note_of(self.store, instance)
    }

    /// Returns whether all processes in the PID namespace of an instance with a free lock are gone;
    /// the error is why that is unknown.
    fn check_elsewhere(
        &self,
        instance: &InstanceRecord,
        lock: LockState,
        all: &[InstanceRecord],
    ) -> std::result::Result<(), String> {
        let unknown = || "it ran on another machine, or in another PID namespace".to_owned();
        let there = instance.identity.scope;
        if self.here.boot_id != there.boot_id || self.here.pid_namespace == there.pid_namespace {
            return Err(unknown());
        }
        // 1. The initial namespace sees all others.
        if self.here.is_initial() {
            let scan = || Namespaces::scan(self.proc, self.here);
            let seen = self.namespaces.get_or_init(scan).as_ref();
            return match seen.map(|seen| seen.is_gone(&instance.identity)) {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err("its PID namespace still exists: processes run in it".into()),
                Ok(Err(error)) => Err(format!("{}: {error}", unknown())),
                Err(error) => Err(format!("{}: {error}", unknown())),
            };
        }
        // 2. pid_namespaces(7): when the first process of a namespace ends, all others in it are
        //    killed. So the first process is checked: this instance, or another one of this ledger
        //    that was the first process when this one opened it.
        let is_first = |it: &InstanceRecord| it.identity.pid.get() == 1 && it.stopped_at.is_none();
        if is_first(instance) {
            return if lock == LockState::Free { Ok(()) } else { Err(unknown()) };
        }
        let init = self.note_of(instance).and_then(|note| note.init);
        let is_its = |it: &&InstanceRecord| {
            let identity = it.identity;
            is_first(it)
                && identity.scope.boot_id == there.boot_id
                && identity.scope.pid_namespace == there.pid_namespace
                && init == Some((identity.start_tick, identity.pidfd_inode.unwrap_or(0)))
                && it.ledger_file == self.store.file()
        };
        let first = all.iter().find(is_its).ok_or_else(unknown)?;
        match lock_state(self.store, first) {
            Ok(LockState::Free) => Ok(()),
            _ => Err(unknown()),
        }
    }

    /// Checks an instance whose process is alive: whether that still runs the image that opened the
    /// ledger.
    ///
    /// Its lock alone does not decide: it is released at exec, but also if a descriptor is closed
    /// by mistake; and after an exec a child that the former image forked still holds it.
    fn check_living(
        &self,
        instance: &InstanceRecord,
        lock: LockState,
        held: Option<&File>,
    ) -> Liveness {
        let pid = instance.identity.pid;
        let path = lock_path(self.store, instance);
        let replaced = || {
            let (id, how) = (instance.id, StopHow::Crashed);
            Liveness::Dead(DeadInstance { id, how, processes_gone: None, replaced: true })
        };
        let is_own = pid.get() == std::process::id();
        if is_own && OpenHere::contains(&path) {
            return Liveness::Alive;
        }
        let note = held.map_or_else(|| self.note_of(instance), note_in);
        let recorded = note.and_then(|note| note.image);
        let now = self.proc.image(pid);
        if let (Some(recorded), Ok(Some(now))) = (recorded, &now)
            && recorded != *now
            // The PID still belonged to the instance when the image was read.
            && matches!(presence(self.proc, self.here, &instance.identity), Presence::Alive)
        {
            return replaced();
        }
        // Neither a tracker of this image nor another copy of this library in this process has the
        // lock.
        if is_own
            && path
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| self.proc.holds_a_file_named(name) == Some(false))
        {
            return replaced();
        }
        match (lock, recorded, now) {
            (LockState::Held | LockState::Missing, ..) => Liveness::Alive,
            (LockState::Free, Some(_), Ok(Some(_))) => {
                Liveness::Unknown("its process is alive, but does not hold its lock".into())
            }
            (LockState::Free, _, Err(error)) => Liveness::Unknown(format!(
                "its process is alive, but does not hold its lock; whether it has executed another program is unknown: {error}"
            )),
            (LockState::Free, ..) => Liveness::Unknown(
                "its process is alive, but does not hold its lock; whether it has executed another program is unknown".into(),
            ),
        }
    }
}

/// The lock files of this image's trackers: an instance with our own identity that is not among
/// these was ended by an exec. Written when a tracker is opened and dropped, read when an instance
/// is checked.
static OPEN_HERE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Registers an instance as one of this image, until it is dropped.
#[derive(Debug)]
pub(in crate::tracker) struct OpenHere(PathBuf);

impl OpenHere {
    pub(in crate::tracker) fn new(lock_path: PathBuf) -> Self {
        lock(&OPEN_HERE).push(lock_path.clone());
        Self(lock_path)
    }

    fn contains(lock_path: &Path) -> bool {
        lock(&OPEN_HERE).iter().any(|open| open == lock_path)
    }
}

impl Drop for OpenHere {
    fn drop(&mut self) {
        lock(&OPEN_HERE).retain(|open| *open != self.0);
    }
}

fn read_note_of(store: &Store, instance: &InstanceRecord) -> Option<Note> {
    let _acting = store.act_as_owner().ok()?;
    read_note(&lock_path(store, instance), store.owner_uid())
}

/// Returns the process on whose behalf an instance acts, according to its lock file.
pub(in crate::tracker) fn noted_caller(
    store: &Store,
    instance: &InstanceRecord,
) -> Option<NotedCaller> {
    read_note_of(store, instance)?.caller
}

/// Returns the note for the lock file of a new instance.
pub(in crate::tracker) fn note_of(
    proc: &Proc,
    scope: PidScope,
    own: Pid,
    caller: Option<NotedCaller>,
) -> Note {
    let image = proc.image(own).ok().flatten();
    let first = Pid::new(1).filter(|first| *first != own && !scope.is_initial());
    let first = first.and_then(|first| Pinned::open(proc, scope, first).ok().flatten());
    let init =
        first.map(|first| (first.identity.start_tick, first.identity.pidfd_inode.unwrap_or(0)));
    Note { image, init, caller }
}

pub(in crate::tracker) fn lock_path(
    store: &Store,
    instance: &InstanceRecord,
) -> std::path::PathBuf {
    // A name from the ledger is data: only its last component is used, so that it cannot lead
    // elsewhere.
    let name = Path::new(&instance.lock_name).file_name().unwrap_or_default();
    store.path().with_file_name(name)
}

/// Returns a new name for the lock file of an instance.
pub(in crate::tracker) fn new_lock_name(ledger: &Path) -> String {
    format!("{}{}.lock", lock_prefix(ledger), uuid::Uuid::new_v4().simple())
}

/// Returns the prefix of the lock file names of a ledger's instances.
pub(in crate::tracker) fn lock_prefix(ledger: &Path) -> String {
    format!("{}-instance-", ledger.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns whether a file beside the ledger has the name of an instance's lock.
pub(in crate::tracker) fn is_lock_name(ledger: &Path, name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(&lock_prefix(ledger)))
}

/// Returns the ledger to which a lock file belongs, whose name [`new_lock_name`] generated.
pub(in crate::tracker) fn ledger_of_lock(lock: &Path) -> Option<PathBuf> {
    let name = lock.file_name()?.to_str()?;
    let (ledger, _) = name.rsplit_once("-instance-")?;
    let ledger = lock.with_file_name(ledger);
    is_made_lock_name(&ledger, name).then_some(ledger)
}

/// Returns whether a name is exactly of the form that [`new_lock_name`] generates.
pub(in crate::tracker) fn is_made_lock_name(ledger: &Path, name: &str) -> bool {
    let random =
        name.strip_prefix(&lock_prefix(ledger)).and_then(|rest| rest.strip_suffix(".lock"));
    random.is_some_and(|random| {
        random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}
