//! The components that all operations of an open tracker share.
//!
//! [`Core`] combines the components and has no logic of its own: each component owns its data and
//! depends on none of the modules that act on it. A function takes the components that it needs, or
//! all of `Core` if it needs more than a few.
//!
//! # Locks
//!
//! Each component has its own locks, which no other module can take. They are taken in this order;
//! most are held only within one method of the component:
//!
//! 1. [`PassState::begin_pass`]: held by a pass, or a `kill`, while it scans and while it ends the
//!    trees that it has claimed;
//! 2. [`Instance::begin_spawn`]: held, for reading, by a spawn until its program runs;
//! 3. the instance cgroup, while it is created, which writes the ledger;
//! 4. the state of the fork listener, while its thread is started, and while the registry is
//!    searched;
//! 5. the queue of the group commit, while its waiters are answered;
//! 6. all others, none of which is held while another lock is taken: the registry, a tracked
//!    process, a keeper's handle, the other queues, the lists of pending writes, the export, the
//!    threads.
//!
//! No lock of the last kind is held during a system call that may block, a query of the ledger, or
//! a signal, except that a keeper's handle is locked while its report is awaited.

use std::sync::{Arc, atomic::AtomicBool};

use super::{
    options::Options,
    runtime::{
        adopted_zombies::Zombies, background_ends::BackgroundEnds, cgroups::Cgroups,
        export_notifier::ExportNotifier, fork_listener::ForkListener, group_commit::GroupCommit,
        instance::Instance, keepers::Keepers, maintenance::Maintenance, memory_watch::MemoryWatch,
        pass_state::PassState, pending_writes::PendingWrites, registry::Registry, threads::Threads,
    },
};
use crate::{
    error::Result,
    identity::{Pid, PidScope},
    metrics::Counters,
    store::Store,
    sys::Proc,
};

/// One open tracker.
pub(in crate::tracker) struct Core {
    pub(in crate::tracker) store: Store,
    pub(in crate::tracker) options: Options,
    pub(in crate::tracker) proc: Proc,
    pub(in crate::tracker) instance: Instance,
    pub(in crate::tracker) registry: Registry,
    pub(in crate::tracker) pending: PendingWrites,
    pub(in crate::tracker) group_commit: GroupCommit,
    pub(in crate::tracker) cgroups: Cgroups,
    pub(in crate::tracker) keepers: Keepers,
    pub(in crate::tracker) zombies: Zombies,
    pub(in crate::tracker) export: ExportNotifier,
    pub(in crate::tracker) passes: PassState,
    pub(in crate::tracker) threads: Threads,
    pub(in crate::tracker) background: BackgroundEnds,
    pub(in crate::tracker) fork_listener: ForkListener,
    pub(in crate::tracker) memory_watch: MemoryWatch,
    pub(in crate::tracker) maintenance: Maintenance,
    /// Stops kills that wait for a grace. Set by a caller, read by each `kill`.
    pub(in crate::tracker) kills_interrupted: AtomicBool,
    /// Whether this instance has recorded members of its live trees. Set by the passes that do so,
    /// read by the shutdown.
    pub(in crate::tracker) recorded_members: AtomicBool,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("ledger", &self.store.path())
            .field("instance", &self.instance.id)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(in crate::tracker) fn new(
        store: Store,
        options: Options,
        proc: Proc,
        instance: Instance,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            registry: Registry::new()?,
            pending: PendingWrites::default(),
            group_commit: GroupCommit::new(store.clone(), instance.pid_scope()),
            cgroups: Cgroups::new(store.clone(), &instance, options.cgroup.clone()),
            keepers: Keepers::default(),
            zombies: Zombies::default(),
            export: ExportNotifier::default(),
            passes: PassState::default(),
            threads: Threads::default(),
            background: BackgroundEnds::default(),
            fork_listener: ForkListener::new()?,
            memory_watch: MemoryWatch::default(),
            maintenance: Maintenance::default(),
            kills_interrupted: AtomicBool::new(false),
            recorded_members: AtomicBool::new(false),
            store,
            options,
            proc,
            instance,
        }))
    }

    pub(in crate::tracker) fn counters(&self) -> &Counters {
        self.store.counters()
    }

    pub(in crate::tracker) fn pid_scope(&self) -> PidScope {
        self.instance.pid_scope()
    }

    pub(in crate::tracker) fn own_pid(&self) -> Pid {
        self.instance.pid()
    }
}
