//! State that all parts of one open tracker share.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use rustix::event::{EventfdFlags, epoll, eventfd};
use uuid::Uuid;

use super::{
    end::{background::BackgroundEnds, run::World},
    options::Options,
    passes::{fork_events::Listening, memory_limits::MemoryWatch},
    runtime::{
        adopted_zombies::Adopted,
        instance::Instance,
        lock::lock,
        tracked::{Entry, Hold, KEPT_DESCRIPTORS, Root},
    },
    start::{containment::Leaves, group_commit::Registrar},
};
use crate::{
    error::{Error, Result},
    export::Exporter,
    identity::{Pid, Place},
    metrics::Counters,
    model::{ProcessId, ProcessRecord, RootEnd, Settled},
    store::Store,
    sys::{
        PidFd, Proc,
        keeper::{Binary, KeeperClient},
    },
};

/// One open tracker.
pub(in crate::tracker) struct Core {
    pub(in crate::tracker) store: Store,
    pub(in crate::tracker) options: Options,
    pub(in crate::tracker) proc: Proc,
    pub(in crate::tracker) instance: Instance,
    pub(in crate::tracker) registrar: Registrar,
    /// Set when the ledger is opened; `None` where there is none.
    pub(in crate::tracker) keeper: OnceLock<Option<Binary>>,
    /// Whether the keeper has reported that it has our version.
    pub(in crate::tracker) keeper_fits: OnceLock<bool>,
    /// Keepers of trees that another instance is ending.
    pub(in crate::tracker) departing: Mutex<Vec<(Arc<Entry>, KeeperClient)>>,
    /// Tokens of the trees whose keepers' records have been read: the files are removed once that is committed.
    pub(in crate::tracker) read_end_logs: Mutex<HashSet<Uuid>>,
    pub(in crate::tracker) epoll: OwnedFd,
    pub(in crate::tracker) wake: OwnedFd,
    pub(in crate::tracker) exporter: Mutex<Option<Arc<Exporter>>>,
    pub(in crate::tracker) entries: Mutex<HashMap<ProcessId, Arc<Entry>>>,
    /// Ends that could not be written yet (invariant 10).
    pub(in crate::tracker) unwritten: Mutex<Vec<RootEnd>>,
    /// Dead processes whose ends are not recorded yet, since their statuses are not available yet.
    pub(in crate::tracker) waiting: Mutex<Vec<crate::tracker::end::exit_statuses::Waiting>>,
    /// Dead processes whose ends are recorded, and whose statuses, or zombies, are not available yet.
    pub(in crate::tracker) unfinished: Mutex<Vec<crate::tracker::end::exit_statuses::Unfinished>>,
    /// Dead roots of ours that another instance was ending when they died.
    pub(in crate::tracker) claimed: Mutex<Vec<crate::tracker::end::root_exit::Dead>>,
    /// Set to stop ends that are waiting for a grace.
    pub(in crate::tracker) interrupted: AtomicBool,
    /// Outcomes of claimed rows that could not be written yet.
    pub(in crate::tracker) unsettled: Mutex<Vec<Settled>>,
    /// Allows one pass at a time.
    pub(in crate::tracker) pass: Mutex<()>,
    /// A health pass started by the monitor is running.
    pub(in crate::tracker) passing: AtomicBool,
    pub(in crate::tracker) house: crate::tracker::passes::retention::House,
    pub(in crate::tracker) monitoring: AtomicBool,
    pub(in crate::tracker) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(in crate::tracker) leaves: Leaves,
    pub(in crate::tracker) adopted: Adopted,
    pub(in crate::tracker) forks: Listening,
    pub(in crate::tracker) background: BackgroundEnds,
    /// How many entries have a maximum run time.
    pub(in crate::tracker) deadlines: AtomicUsize,
    /// How many entries have a memory limit.
    pub(in crate::tracker) memory_limits: AtomicUsize,
    pub(in crate::tracker) memory_watch: MemoryWatch,
    held_pidfds: AtomicUsize,
    pidfd_limit: usize,
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
        let failed = |error| Error::os("failed to set up the monitor", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(failed)?;
        let limit = crate::sys::fd_table::descriptor_limit();
        Ok(Arc::new(Self {
            store,
            options,
            proc,
            instance,
            registrar: Registrar::default(),
            keeper: OnceLock::new(),
            keeper_fits: OnceLock::new(),
            departing: Mutex::default(),
            read_end_logs: Mutex::default(),
            epoll,
            wake,
            exporter: Mutex::default(),
            entries: Mutex::default(),
            unwritten: Mutex::default(),
            unsettled: Mutex::default(),
            waiting: Mutex::default(),
            unfinished: Mutex::default(),
            claimed: Mutex::default(),
            interrupted: AtomicBool::new(false),
            pass: Mutex::default(),
            passing: AtomicBool::new(false),
            house: crate::tracker::passes::retention::House::default(),
            monitoring: AtomicBool::new(false),
            threads: Mutex::default(),
            leaves: Leaves::default(),
            adopted: Adopted::default(),
            forks: Listening::new()?,
            background: BackgroundEnds::default(),
            deadlines: AtomicUsize::new(0),
            memory_limits: AtomicUsize::new(0),
            memory_watch: MemoryWatch::default(),
            held_pidfds: AtomicUsize::new(0),
            pidfd_limit: usize::try_from(limit / 2).unwrap_or(usize::MAX),
        }))
    }

    /// Returns whether the monitor thread runs, or has not been stopped yet.
    pub(in crate::tracker) fn is_monitoring(&self) -> bool {
        self.monitoring.load(Ordering::Acquire)
    }

    pub(in crate::tracker) fn counters(&self) -> &Counters {
        self.store.counters()
    }

    pub(in crate::tracker) fn place(&self) -> Place {
        self.instance.place()
    }

    pub(in crate::tracker) fn own_pid(&self) -> Pid {
        self.instance.pid()
    }

    /// Notifies the exporter that the ledger has changed; never waits for it.
    pub(in crate::tracker) fn notify_export(&self) {
        if let Some(exporter) = lock(&self.exporter).as_ref() {
            exporter.notify();
        }
    }

    /// Makes the monitor re-read its deadlines.
    pub(in crate::tracker) fn wake_monitor(&self) {
        // Full means that the monitor has not yet woken up from earlier calls.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Begins to track a process: from now on its death is noticed.
    pub(in crate::tracker) fn take_on(
        self: &Arc<Self>,
        root: Root,
        hold: Hold,
        pidfd: &Arc<PidFd>,
    ) -> Arc<Entry> {
        let before = self.held_pidfds.fetch_add(hold.descriptors(), Ordering::Relaxed);
        let held_by_us = (before < self.pidfd_limit).then(|| Arc::clone(pidfd));
        let row = root.row;
        let has_deadline = root.limits.max_runtime.is_some();
        let entry = Entry::new(root, hold, held_by_us);
        lock(&self.entries).insert(row, Arc::clone(&entry));
        Counters::executing(1.0);
        if let Some(fd) = &entry.pidfd {
            let data = epoll::EventData::new_u64(row.0.cast_unsigned());
            // One-shot, and level-triggered: the monitor settles the death and releases the process. A failure leaves it to the
            // health pass.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            if let Err(error) = epoll::add(&self.epoll, fd.as_ref(), data, flags) {
                tracing::warn!(
                    "failed to watch process {}: {error}; the health pass covers it",
                    entry.root.identity.pid
                );
            }
        }
        self.watch_keeper(&entry);
        if has_deadline {
            self.deadlines.fetch_add(1, Ordering::AcqRel);
            self.wake_monitor();
        }
        if entry.root.limits.max_rss.is_some() {
            self.memory_limits.fetch_add(1, Ordering::AcqRel);
            self.watch_memory();
        }
        entry
    }

    /// Returns whether there are enough descriptors for one more process with a keeper.
    pub(in crate::tracker) fn can_hold_kept(&self) -> bool {
        self.held_pidfds.load(Ordering::Relaxed) + KEPT_DESCRIPTORS <= self.pidfd_limit
    }

    /// Returns a recorded root, with what is known of it in addition to its row.
    pub(in crate::tracker) fn root_of(&self, record: &ProcessRecord) -> Root {
        let mut root = Root { keeper: self.keeper_of_row(record), ..Root::from(record) };
        root.arguments = match self.entry(record.id) {
            Some(entry) => entry.root.arguments,
            None => root.arguments && self.options.record_arguments,
        };
        root
    }

    /// Releases a process whose end is recorded. Its keeper, if it has one, makes sure that nothing of the tree is left.
    pub(in crate::tracker) fn let_go(&self, row: ProcessId) {
        self.remove(row, false);
    }

    /// Releases a process that no instance is responsible for any more, with everything below it.
    pub(in crate::tracker) fn release(&self, row: ProcessId) {
        self.remove(row, true);
    }

    fn remove(&self, row: ProcessId, leave: bool) {
        let removed = lock(&self.entries).remove(&row);
        if let Some(entry) = removed {
            entry.mark_over();
            self.held_pidfds.fetch_sub(entry.descriptors(), Ordering::Relaxed);
            if entry.root.limits.max_runtime.is_some() {
                self.deadlines.fetch_sub(1, Ordering::AcqRel);
            }
            if entry.root.limits.max_rss.is_some() {
                self.memory_limits.fetch_sub(1, Ordering::AcqRel);
            }
            Counters::executing(-1.0);
            if let Some(fd) = &entry.pidfd {
                let _ = epoll::delete(&self.epoll, fd.as_ref());
            }
            // If the keeper has not reported yet how the program ended, see `finish_late`.
            if entry.kept.is_none() || !entry.lacks_status() || entry.status().is_some() {
                self.part_with_keeper(&entry, leave || entry.strays.keep);
            }
        }
    }

    /// Gives up the right to end a process that is still alive. A death that was reported meanwhile, and ignored, is reported
    /// again.
    pub(in crate::tracker) fn give_up(&self, entry: &Entry) {
        entry.give_up();
        if let Some(fd) = &entry.pidfd {
            let data = epoll::EventData::new_u64(entry.root.row.0.cast_unsigned());
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            let _ = epoll::modify(&self.epoll, fd.as_ref(), data, flags);
        }
    }

    pub(in crate::tracker) fn entry(&self, row: ProcessId) -> Option<Arc<Entry>> {
        lock(&self.entries).get(&row).cloned()
    }

    pub(in crate::tracker) fn all_entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries).values().cloned().collect()
    }

    /// Returns how many processes have no pidfd, because of the descriptor limit.
    pub(in crate::tracker) fn unwatched(&self) -> usize {
        lock(&self.entries).values().filter(|entry| entry.pidfd.is_none()).count()
    }

    /// Returns the context of an end: which processes to leave alone. `targets` are the rows that are to be ended.
    pub(in crate::tracker) fn world(&self, targets: &[ProcessId]) -> Result<World<'_>> {
        Ok(World {
            proc: &self.proc,
            observer: self.instance.observer,
            own: self.own_pid(),
            ancestors: self.proc.ancestors(self.own_pid()),
            foreign: self.foreign(targets)?,
            protected: &self.options.protected,
        })
    }
}

/// The epoll data of the wake-up descriptor; rows count from 1.
pub(in crate::tracker) const WAKE: u64 = 0;
