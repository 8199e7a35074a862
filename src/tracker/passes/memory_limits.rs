//! Limits on the memory of trees, checked about each second.
//!
//! While a tree has such a limit, a dedicated thread checks it; without one there is no thread and no timer. A check goes from
//! cheap to exact measurements:
//!
//! 1. Each second: the resident memory and swap of the members that are known by cheap means (the processes in the leaf, else
//!    those below the root and below members that a scan has found). These sums are too high, never too low.
//! 2. Where that comes near the limit, and each five seconds: the members by a scan of all processes, as an end finds them.
//!    This finds the members that have lost their parent.
//! 3. Where the sum is over the limit: the proportional values of the members, which count shared pages once. Only these end a
//!    tree.
//!
//! The pause after a check is at least twenty times the processor time that the check took. The elapsed time does not count: on
//! a busy machine limits must not be checked less often.
//!
//! Where the proportional value of a member cannot be read, its anonymous memory and its swap count: its shared memory is left
//! out. A member that this instance may not signal does not count at all: the limit could not free its memory.
//!
//! In a leaf that has a memory controller the kernel enforces the limit as well, at once (`memory.max`, see
//! [`crate::tracker::start::containment`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    identity::Pid,
    model::{EndReason, ProcessId},
    policy::limits::TreeMemory,
    sys::{cgroup::TaskCgroup, snapshot::Stat, thread_clock},
    tracker::{
        core::Core,
        end::{background::Due, outcome::Cause},
        runtime::{lock::lock, tracked::Entry},
    },
};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two scans of all processes, where no tree comes near its limit.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
/// Checks take a twentieth of one processor; twice that, where a scan of all processes uses another thread.
const SHARE: u32 = 20;
/// Maximum number of members of a tree that are followed by cheap means; a larger tree is scanned as a whole.
const MEMBERS: usize = 4096;

/// A member of a tree: its PID and start tick.
type Member = (Pid, u64);

/// The thread that checks memory limits.
#[derive(Debug, Default)]
pub(in crate::tracker) struct MemoryWatch {
    running: Mutex<bool>,
    changed: Condvar,
}

impl MemoryWatch {
    pub(in crate::tracker) fn wake(&self) {
        let _running = lock(&self.running);
        self.changed.notify_all();
    }
}

impl Core {
    /// Makes sure that a thread checks memory limits. Without a monitor there is none: then health passes, called by the host,
    /// check them.
    pub(in crate::tracker) fn watch_memory(self: &Arc<Self>) {
        if !self.monitoring.load(Ordering::Acquire) {
            return;
        }
        let mut running = lock(&self.memory_watch.running);
        if *running {
            return;
        }
        let core = Arc::clone(self);
        let thread = std::thread::Builder::new().name("procledger-memory".into());
        match thread.spawn(move || Looks::default().run(&core)) {
            Ok(thread) => {
                *running = true;
                self.keep_thread(thread);
            }
            Err(error) => tracing::warn!(
                "failed to start the thread for memory limits: {error}; health passes check them instead"
            ),
        }
    }

    /// Returns whether the thread has anything to do; if not, it counts as gone.
    fn goes_on_watching_memory(&self) -> bool {
        let mut running = lock(&self.memory_watch.running);
        *running = self.monitoring.load(Ordering::Acquire)
            && self.memory_limits.load(Ordering::Acquire) > 0;
        *running
    }

    /// Returns how much memory some members take: the proportional values only where the cheap ones are over the limit.
    pub(in crate::tracker) fn tree_memory(&self, limit: u64, members: &[Member]) -> TreeMemory {
        let mut memory = TreeMemory::default();
        for (pid, _) in members {
            if let Ok(Some(one)) = self.proc.memory(*pid) {
                memory.resident =
                    memory.resident.saturating_add(one.resident).saturating_add(one.swapped);
            }
        }
        if memory.resident > limit {
            let each = members.iter().map(|member| self.proportional(*member));
            memory.proportional = Some(each.fold(0, u64::saturating_add));
        }
        memory
    }

    fn proportional(&self, (pid, start_tick): Member) -> u64 {
        let read = self.proc.proportional(pid);
        // Checked afterwards: a process that has its PID and its tick now had them while it was read.
        let same = self.proc.stat(pid).is_ok_and(|stat| {
            stat.is_some_and(|stat| stat.start_tick == start_tick && !stat.is_zombie())
        });
        let uid = self.proc.uid(pid).ok().flatten();
        if !same || !uid.is_some_and(|uid| self.instance.observer.may_touch(uid)) {
            return 0;
        }
        if let Ok(Some(bytes)) = read {
            return bytes;
        }
        // Not dumpable, or a kernel without it.
        let memory = self.proc.memory(pid).ok().flatten().unwrap_or_default();
        memory.anonymous.saturating_add(memory.swapped)
    }

    /// Returns the members of trees with a memory limit, as an end would find them.
    fn members_of(&self, entries: &[Arc<Entry>]) -> Result<HashMap<ProcessId, Vec<Member>>> {
        let rows = self.store.live_of(self.instance.id)?;
        let snapshot = self.proc.snapshot()?;
        let alive = self.living(rows, &snapshot);
        let scene = self.scene(&snapshot, &alive)?;
        let limited: HashSet<ProcessId> = entries.iter().map(|entry| entry.root.row).collect();
        let roots = alive.iter().map(|(row, _)| row).filter(|row| limited.contains(&row.id));
        let member = |stat: &Stat| (stat.pid, stat.start_tick);
        let members = roots.map(|row| {
            let below = self.below(&scene, row);
            let root = (row.identity.pid, row.identity.start_tick);
            let all = below.iter().map(|(stat, _)| member(stat));
            (row.id, std::iter::once(root).chain(all).collect())
        });
        Ok(members.collect())
    }

    fn limited_in_memory(&self) -> Vec<Arc<Entry>> {
        let mut entries = self.all_entries();
        entries.retain(|entry| entry.root.limits.max_rss.is_some() && !entry.is_being_ended());
        entries
    }
}

/// State that the thread keeps from one check to the next.
#[derive(Default)]
struct Looks {
    /// Members that the last scan of all processes has found.
    known: HashMap<ProcessId, Vec<Member>>,
    last_full: Option<Instant>,
}

impl Looks {
    fn run(mut self, core: &Arc<Core>) {
        crate::sys::leave_signals_to_the_host();
        self.last_full = Some(Instant::now());
        let mut pause = INTERVAL;
        loop {
            let running = lock(&core.memory_watch.running);
            let wait = core.memory_watch.changed.wait_timeout(running, pause);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
            if !core.goes_on_watching_memory() {
                return;
            }
            let before = thread_clock();
            self.look(core);
            pause = INTERVAL.max(thread_clock().saturating_sub(before) * SHARE);
        }
    }

    fn look(&mut self, core: &Arc<Core>) {
        let entries = core.limited_in_memory();
        let limit = |entry: &Entry| entry.root.limits.max_rss.unwrap_or(u64::MAX);
        let is_due = self.last_full.is_none_or(|last| last.elapsed() >= FULL_INTERVAL);
        if !is_due && !entries.iter().any(|entry| self.may_be_near(core, entry, limit(entry))) {
            return;
        }
        match core.members_of(&entries) {
            Ok(members) => self.known = members,
            Err(error) => {
                return tracing::debug!("failed to measure the memory of trees: {error}");
            }
        }
        self.last_full = Some(Instant::now());
        let due = entries.into_iter().filter_map(|entry| {
            let members = self.known.get(&entry.root.row)?;
            let limit = limit(&entry);
            let rule = core.tree_memory(limit, members).is_too_much(limit)?;
            let cause = Cause { reason: EndReason::MaxRss, leak: None, rule };
            Some(Due { entry, cause, answer: None })
        });
        core.end_aside(due.collect());
    }

    /// Checks by cheap means; never `false` if the memory they find is near the limit.
    fn may_be_near(&self, core: &Core, entry: &Entry, limit: u64) -> bool {
        let root = entry.root.identity.pid;
        let in_leaf = || {
            let record = entry.root.cgroup.as_ref()?;
            let listing =
                TaskCgroup::open(record, core.instance.observer.uid).ok()??.list().ok()?;
            listing.complete.then_some(listing.pids)
        };
        let mut memory = TreeMemory::default();
        let mut add = |pid: Pid| {
            if let Ok(Some(one)) = core.proc.memory(pid) {
                let taken = one.resident.saturating_add(one.swapped);
                memory.resident = memory.resident.saturating_add(taken);
            }
            memory.is_near(limit)
        };
        if let Some(pids) = in_leaf() {
            return pids.into_iter().any(add);
        }
        // A PID that was reused since makes the sum too high at most.
        let known = self.known.get(&entry.root.row).into_iter().flatten().map(|(pid, _)| *pid);
        let mut open: Vec<Pid> = known.chain([root]).collect();
        let mut seen: HashSet<Pid> = open.iter().copied().collect();
        while let Some(pid) = open.pop() {
            if add(pid) || seen.len() > MEMBERS {
                return true;
            }
            let children = core.proc.children(pid).unwrap_or_default();
            open.extend(children.into_iter().filter(|child| seen.insert(*child)));
        }
        false
    }
}
