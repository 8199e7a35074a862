//! The processes for which this instance is responsible.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    deaths::Deaths,
    lock::lock,
    tracked::{KEEPER_DESCRIPTORS, Root, Tracked, Tracking},
};
use crate::{
    error::Result,
    identity::Pid,
    metrics::Counters,
    model::ProcessId,
    sys::{PidFd, fd_table::descriptor_limit},
};

/// The processes for which this instance is responsible, with the descriptors that are held for
/// them.
#[derive(Debug)]
pub(in crate::tracker) struct Registry {
    pub(in crate::tracker) deaths: Deaths,
    /// Written by spawns and adoptions, and by whichever thread records an end; read by all
    /// threads.
    entries: Mutex<HashMap<ProcessId, Arc<Tracked>>>,
    /// How many of them have a maximum run time. Usually none has, and none is examined.
    deadlines: AtomicUsize,
    /// How many of them have a memory limit.
    memory_limits: AtomicUsize,
    descriptors: AtomicUsize,
    /// Half of the descriptor limit; the rest is for the host.
    descriptor_limit: usize,
}

impl Registry {
    pub(in crate::tracker) fn new() -> Result<Self> {
        Ok(Self {
            deaths: Deaths::new()?,
            entries: Mutex::default(),
            deadlines: AtomicUsize::new(0),
            memory_limits: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
            descriptor_limit: usize::try_from(descriptor_limit() / 2).unwrap_or(usize::MAX),
        })
    }

    /// Starts tracking a process: from now on its death is detected.
    pub(in crate::tracker) fn track(
        &self,
        root: Root,
        tracking: Tracking,
        pidfd: &Arc<PidFd>,
    ) -> Arc<Tracked> {
        let before = self.descriptors.fetch_add(tracking.descriptors(), Ordering::Relaxed);
        let held = (before < self.descriptor_limit).then(|| Arc::clone(pidfd));
        let limits = root.limits;
        let entry = Tracked::new(root, tracking, held);
        lock(&self.entries).insert(entry.root.row, Arc::clone(&entry));
        Counters::executing(1.0);
        self.deaths.watch(&entry);
        if limits.max_runtime.is_some() {
            self.deadlines.fetch_add(1, Ordering::AcqRel);
        }
        if limits.max_rss.is_some() {
            self.memory_limits.fetch_add(1, Ordering::AcqRel);
        }
        if limits.max_runtime.is_some() || limits.max_rss.is_some() {
            // The monitor determines anew when it must act next.
            self.deaths.wake();
        }
        entry
    }

    /// Stops tracking a process, and returns it if it was tracked.
    pub(in crate::tracker) fn untrack(&self, row: ProcessId) -> Option<Arc<Tracked>> {
        let entry = lock(&self.entries).remove(&row)?;
        entry.mark_over();
        self.descriptors.fetch_sub(entry.descriptors(), Ordering::Relaxed);
        if entry.root.limits.max_runtime.is_some() {
            self.deadlines.fetch_sub(1, Ordering::AcqRel);
        }
        if entry.root.limits.max_rss.is_some() {
            self.memory_limits.fetch_sub(1, Ordering::AcqRel);
        }
        Counters::executing(-1.0);
        self.deaths.unwatch(&entry);
        Some(entry)
    }

    /// Gives up the right to end a process that is still alive. A death that was reported and
    /// ignored meanwhile is reported again.
    pub(in crate::tracker) fn give_up(&self, entry: &Tracked) {
        entry.give_up();
        self.deaths.rearm(entry);
    }

    pub(in crate::tracker) fn get(&self, row: ProcessId) -> Option<Arc<Tracked>> {
        lock(&self.entries).get(&row).cloned()
    }

    pub(in crate::tracker) fn all(&self) -> Vec<Arc<Tracked>> {
        lock(&self.entries).values().cloned().collect()
    }

    pub(in crate::tracker) fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Returns the first process for which `wanted` is true.
    pub(in crate::tracker) fn find(
        &self,
        wanted: impl Fn(&Tracked) -> bool,
    ) -> Option<Arc<Tracked>> {
        lock(&self.entries).values().find(|entry| wanted(entry)).cloned()
    }

    /// Returns how many processes have no pidfd, because of the descriptor limit.
    pub(in crate::tracker) fn unwatched(&self) -> usize {
        lock(&self.entries).values().filter(|entry| entry.pidfd.is_none()).count()
    }

    /// Returns the registered processes, except those of `targets`: each is a separate task,
    /// whatever its parent is.
    pub(in crate::tracker) fn registered_except(&self, targets: &HashSet<ProcessId>) -> Vec<Pid> {
        let entries = lock(&self.entries);
        let registered = entries.values().filter(|entry| !entry.child);
        let others = registered.filter(|entry| !targets.contains(&entry.root.row));
        others.map(|entry| entry.root.identity.pid).collect()
    }

    /// Returns whether there are enough descriptors for one more process with a keeper.
    pub(in crate::tracker) fn has_room_for_keeper(&self) -> bool {
        self.descriptors.load(Ordering::Relaxed) + KEEPER_DESCRIPTORS <= self.descriptor_limit
    }

    /// Returns the processes with a maximum run time that are not being ended yet.
    pub(in crate::tracker) fn with_deadline(&self) -> Vec<Arc<Tracked>> {
        if self.deadlines.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut entries = self.all();
        entries.retain(|entry| entry.root.limits.max_runtime.is_some() && !entry.is_being_ended());
        entries
    }

    /// Returns whether any process has a memory limit.
    pub(in crate::tracker) fn has_memory_limit(&self) -> bool {
        self.memory_limits.load(Ordering::Acquire) > 0
    }

    /// Returns the processes with a memory limit that are not being ended yet.
    pub(in crate::tracker) fn with_memory_limit(&self) -> Vec<Arc<Tracked>> {
        if !self.has_memory_limit() {
            return Vec::new();
        }
        let mut entries = self.all();
        entries.retain(|entry| entry.root.limits.max_rss.is_some() && !entry.is_being_ended());
        entries
    }
}
