//! Enforces limits on the memory of trees, which are checked about each second.
//!
//! While a tree has such a limit, a dedicated thread checks it; without one there is no thread and
//! no timer. A check proceeds from cheap to exact measurements:
//!
//! 1. Each second: the resident memory and swap of the members that can be found cheaply (the
//!    processes in the task cgroup, or else those below the root and below members that a scan has
//!    found). Shared memory makes these sums too high.
//! 2. If that comes near the limit, and each five seconds: the members according to a scan of all
//!    processes, as an end finds them, including those that have lost their parent.
//! 3. If the sum is over the limit: the proportional values of the members, which count shared
//!    pages once. A tree is ended only because of these.
//!
//! The pause after a check is at least twenty times the processor time that the check took. The
//! elapsed time does not count, so that limits are not checked less often on a busy machine.
//!
//! If the proportional value of a member cannot be read, its anonymous memory and its swap count,
//! without its shared memory. A member that this instance may not signal does not count at all,
//! since ending the tree could not free its memory.
//!
//! In a task cgroup that has a memory controller the kernel enforces the limit as well, at once
//! (`memory.max`, see [`crate::tracker::runtime::cgroups`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    descendants,
    pass::Pass,
    tree_memory::{self, Member},
};
use crate::{
    error::Result,
    identity::Pid,
    model::{EndReason, ProcessId},
    policy::limits::TreeMemory,
    sys::{cgroup::TaskCgroup, snapshot::Stat, thread_clock},
    tracker::{
        core::Core,
        end::background,
        runtime::{background_ends::Due, cause::Cause, tracked::Tracked},
    },
};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which starting the thread is retried.
const RETRY: Duration = Duration::from_secs(5);
/// Time between two scans of all processes while no tree comes near its limit.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
/// Checks use at most one part in this many of a processor; twice that if a scan of all processes
/// uses another thread.
const SHARE: u32 = 20;
/// Maximum number of members of a tree that are searched for cheaply; a larger tree is found by a
/// scan.
const MEMBERS: usize = 4096;

/// Starts the thread that checks memory limits once there is a limit. Without a monitor there is no
/// such thread; then health passes, called by the host, check the limits.
pub(super) struct MemoryLimits {
    /// The earliest time for another attempt after the thread could not be started.
    not_before: Instant,
}

impl MemoryLimits {
    pub(super) fn new(now: Instant) -> Self {
        Self { not_before: now }
    }
}

impl Pass for MemoryLimits {
    fn due(&self, core: &Core) -> Option<Instant> {
        let is_needed = core.registry.has_memory_limit() && !core.memory_watch.is_running();
        is_needed.then_some(self.not_before)
    }

    fn run_once(&mut self, core: &Arc<Core>, now: Instant) {
        if !core.memory_watch.begin() {
            return;
        }
        let theirs = Arc::clone(core);
        let started =
            core.threads.start("procledger-memory", move || MemoryChecks::default().run(&theirs));
        if let Err(error) = started {
            core.memory_watch.goes_on(|| false);
            self.not_before = now + RETRY;
            tracing::warn!(
                "failed to start the thread for memory limits: {error}; health passes check them instead"
            );
        }
    }
}

/// Returns the members of trees with a memory limit, as an end would find them.
fn members_of(core: &Core, entries: &[Arc<Tracked>]) -> Result<HashMap<ProcessId, Vec<Member>>> {
    let rows = core.store.live_of(core.instance.id)?;
    let snapshot = core.proc.snapshot()?;
    let alive = descendants::living(core, rows, &snapshot);
    let seen_trees = descendants::seen_trees(core, &snapshot, &alive)?;
    let limited: HashSet<ProcessId> = entries.iter().map(|entry| entry.root.row).collect();
    let roots = alive.iter().map(|(row, _)| row).filter(|row| limited.contains(&row.id));
    let member = |stat: &Stat| (stat.pid, stat.start_tick);
    let members = roots.map(|row| {
        let below = descendants::below(core, &seen_trees, row);
        let root = (row.pid(), row.spec.identity.start_tick);
        let all = below.iter().map(|(stat, _)| member(stat));
        (row.id, std::iter::once(root).chain(all).collect())
    });
    Ok(members.collect())
}

/// The state that the thread keeps between checks.
#[derive(Default)]
struct MemoryChecks {
    /// Members that the last scan of all processes found.
    known: HashMap<ProcessId, Vec<Member>>,
    last_full: Option<Instant>,
}

impl MemoryChecks {
    fn run(mut self, core: &Arc<Core>) {
        self.last_full = Some(Instant::now());
        let mut pause = INTERVAL;
        loop {
            core.memory_watch.sleep(pause);
            let is_needed = || core.passes.is_monitoring() && core.registry.has_memory_limit();
            if !core.memory_watch.goes_on(is_needed) {
                return;
            }
            let before = thread_clock();
            self.check(core);
            pause = INTERVAL.max(thread_clock().saturating_sub(before) * SHARE);
        }
    }

    fn check(&mut self, core: &Arc<Core>) {
        let entries = core.registry.with_memory_limit();
        let limit = |entry: &Tracked| entry.root.limits.max_rss.unwrap_or(u64::MAX);
        let is_due = self.last_full.is_none_or(|last| last.elapsed() >= FULL_INTERVAL);
        if !is_due && !entries.iter().any(|entry| self.may_be_near(core, entry, limit(entry))) {
            return;
        }
        match members_of(core, &entries) {
            Ok(members) => self.known = members,
            Err(error) => {
                return tracing::debug!("failed to measure the memory of trees: {error}");
            }
        }
        self.last_full = Some(Instant::now());
        let due = entries.into_iter().filter_map(|entry| {
            let members = self.known.get(&entry.root.row)?;
            let limit = limit(&entry);
            let rule = tree_memory::tree_memory(core, limit, members).is_too_much(limit)?;
            let cause = Cause { reason: EndReason::MaxRss, leak: None, rule };
            Some(Due { entry, cause, answer: None })
        });
        background::end_in_background(core, due.collect());
    }

    /// Makes the cheap check; returns `true` if a tree may be near its limit.
    fn may_be_near(&self, core: &Core, entry: &Tracked, limit: u64) -> bool {
        let root = entry.root.identity.pid;
        let in_task_cgroup = || {
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
        if let Some(pids) = in_task_cgroup() {
            return pids.into_iter().any(add);
        }
        // A PID that was reused since then can only make the sum too high.
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
