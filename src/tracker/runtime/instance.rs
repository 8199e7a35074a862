//! This instance: its row in the ledger, its identity, its lock, and its phase.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use uuid::Uuid;

use super::{
    liveness::{OpenHere, new_lock_name, note_of},
    lock::lock,
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope},
    model::{InstanceId, Millis, NewInstance, Observer},
    store::Store,
    sys::{Pinned, Proc, file_lock::HeldLock, proc::TOKEN_VARIABLE, process_mark::ProcessMark},
    tracker::{caller::Caller, options::Options},
};

/// One open tracker, as the ledger and other instances see it.
#[derive(Debug)]
pub(in crate::tracker) struct Instance {
    pub(in crate::tracker) id: InstanceId,
    pub(in crate::tracker) identity: Identity,
    process: ProcessMark,
    /// Where this process runs, and the user that it acts for.
    pub(in crate::tracker) observer: Observer,
    /// Tokens of the trees of other ledgers to which this process belongs; our programs inherit
    /// them.
    pub(in crate::tracker) outer_tokens: Vec<String>,
    /// Written by the orphan pass and by the shutdown, read by every operation.
    phase: Mutex<Phase>,
    /// Held for reading while a spawn is in progress, for writing by the shutdown until all of them
    /// are done.
    spawning: RwLock<()>,
    /// Taken by the shutdown.
    lock: Mutex<Option<HeldLock>>,
    _open_here: OpenHere,
}

/// The phase of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Processes that dead instances left may still be running, so nothing is spawned (invariant
    /// 8).
    Opened,
    /// The orphan pass has run.
    Clean,
    /// It is shut down, or is about to be.
    Closed { was_clean: bool },
}

impl Instance {
    /// Records a new instance in the ledger.
    pub(in crate::tracker) fn enter(
        store: &Store,
        proc: &Proc,
        scope: PidScope,
        options: &Options,
    ) -> Result<Self> {
        let observer = Observer { scope, uid: store.owner_uid() };
        let own = Pid::new(i64::from(std::process::id()))
            .ok_or_else(|| Error::invalid("pid 0 cannot open a ledger"))?;
        let identity = Pinned::open(proc, scope, own)?
            .ok_or_else(|| Error::new(Kind::Unknown, "this process cannot see itself in `/proc`"))?
            .identity;
        let caller = options.caller.as_ref().map(Caller::note);
        let lock_name = new_lock_name(store.path());
        // 1. The lock is taken before the row is written: a row without a held lock looks like a
        //    dead instance.
        let lock_path = store.path().with_file_name(&lock_name);
        let lock =
            store.act_as_owner().and_then(|_acting| HeldLock::create(&lock_path, observer.uid))?;
        // 2. The note is written before the row as well, so that a process that checks the row
        //    finds it.
        if let Err(error) = lock.write_note(&note_of(proc, scope, own, caller)) {
            tracing::debug!("{error}: other instances will not recognize an exec of this program");
        }
        let open_here = OpenHere::new(lock_path);
        // 3. The row is written.
        let new = NewInstance {
            program: options.program.clone(),
            identity,
            uid: rustix::process::geteuid().as_raw(),
            lock_name,
            started_at: Millis::now(),
        };
        let id = match store.add_instance(&new) {
            Ok(id) => id,
            Err(error) => {
                if let Ok(_acting) = store.act_as_owner() {
                    lock.remove();
                }
                return Err(error);
            }
        };
        // 4. The lock is signed. Without the signature a keeper above this process takes it for a
        //    program of its task.
        if let Err(error) = lock.sign(&identity) {
            tracing::warn!("{error}");
        }
        Ok(Self {
            id,
            identity,
            process: ProcessMark::new(),
            observer,
            outer_tokens: outer_tokens(|token| store.knows_token(token))?,
            phase: Mutex::new(Phase::Opened),
            spawning: RwLock::default(),
            lock: Mutex::new(Some(lock)),
            _open_here: open_here,
        })
    }

    pub(in crate::tracker) fn pid(&self) -> Pid {
        self.identity.pid
    }

    pub(in crate::tracker) fn pid_scope(&self) -> PidScope {
        self.observer.scope
    }

    /// Returns whether this is a forked child of the process that opened the tracker. There the
    /// tracker's threads are missing, so it cannot be used.
    pub(in crate::tracker) fn is_forked(&self) -> bool {
        !self.process.is_of_this_process()
    }

    pub(in crate::tracker) fn is_closed(&self) -> bool {
        matches!(*lock(&self.phase), Phase::Closed { .. })
    }

    pub(in crate::tracker) fn is_clean(&self) -> bool {
        matches!(*lock(&self.phase), Phase::Clean | Phase::Closed { was_clean: true })
    }

    /// Fails in a forked child, and after a shutdown.
    pub(in crate::tracker) fn check_usable(&self) -> Result<()> {
        if self.is_forked() {
            return Err(Error::new(
                Kind::Closed,
                "the tracker was opened by the parent of this process: open a new one after fork",
            ));
        }
        if self.is_closed() {
            return Err(Error::new(Kind::Closed, "the tracker is shut down: open a new one"));
        }
        Ok(())
    }

    /// Fails until the first orphan pass has run.
    pub(in crate::tracker) fn check_clean(&self) -> Result<()> {
        if self.is_clean() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Busy,
            "orphans of dead instances are not cleaned up yet: call `reap_orphans` before the first spawn",
        ))
    }

    /// Notes that the orphan pass has run.
    pub(in crate::tracker) fn mark_clean(&self) {
        let mut phase = lock(&self.phase);
        *phase = match *phase {
            Phase::Opened | Phase::Clean => Phase::Clean,
            Phase::Closed { .. } => Phase::Closed { was_clean: true },
        };
    }

    /// Closes the tracker for new operations. Returns `false` if it is already closed, and in a
    /// forked child, which has a copy of everything and owns none of it.
    pub(in crate::tracker) fn close(&self) -> bool {
        if self.is_forked() {
            return false;
        }
        let mut phase = lock(&self.phase);
        let was_clean = match *phase {
            Phase::Opened => false,
            Phase::Clean => true,
            Phase::Closed { .. } => return false,
        };
        *phase = Phase::Closed { was_clean };
        true
    }

    /// Begins a spawn or a registration: a shutdown waits until the guard is dropped.
    pub(in crate::tracker) fn begin_spawn(&self) -> Result<RwLockReadGuard<'_, ()>> {
        self.check_usable()?;
        let spawning = self.spawning.read().unwrap_or_else(PoisonError::into_inner);
        self.check_usable()?;
        Ok(spawning)
    }

    /// Returns whether a spawn may be in progress.
    pub(in crate::tracker) fn is_spawning(&self) -> bool {
        matches!(self.spawning.try_write(), Err(TryLockError::WouldBlock))
    }

    /// Does the same as [`Self::begin_spawn`], but waits for nothing and returns `None` once a
    /// shutdown has begun.
    pub(in crate::tracker) fn hold_open(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.is_forked() {
            return None;
        }
        let open = match self.spawning.try_read() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(open)) => open.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        (!self.is_closed()).then_some(open)
    }

    /// Waits, after [`Self::close`], until all spawns that are in progress are done.
    pub(in crate::tracker) fn await_spawns(&self) {
        drop(self.spawning.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns whether a shutdown is complete: everything that it records is committed.
    pub(in crate::tracker) fn is_shut_down(&self) -> bool {
        lock(&self.lock).is_none()
    }

    /// Returns the name of the lock file; `None` after a shutdown.
    pub(in crate::tracker) fn lock_name(&self) -> Option<String> {
        lock(&self.lock).as_ref().and_then(HeldLock::name)
    }

    /// Releases the lock. Removes its file only if the stop is recorded; otherwise the next
    /// instance must be able to find this one dead.
    pub(in crate::tracker) fn release_lock(&self, store: &Store, stop_is_recorded: bool) {
        let held = lock(&self.lock).take();
        if stop_is_recorded && let (Some(held), Ok(_acting)) = (held, store.act_as_owner()) {
            held.remove();
        }
    }
}

/// Returns the inherited tokens of other ledgers, which are passed on. Those of this ledger are
/// dropped, since a task that restarts its host must not make the new host a member of the old
/// tree.
fn outer_tokens(known: impl Fn(&Uuid) -> Result<bool>) -> Result<Vec<String>> {
    let Some(list) = std::env::var_os(TOKEN_VARIABLE) else { return Ok(Vec::new()) };
    let mut outer = Vec::new();
    for element in list.to_string_lossy().split(':') {
        if let Ok(token) = Uuid::try_parse(element)
            && !known(&token)?
        {
            outer.push(token.simple().to_string());
        }
    }
    Ok(outer)
}
