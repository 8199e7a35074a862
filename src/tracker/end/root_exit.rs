//! Handles roots that ended by themselves: records the end, and ends what the root left.
//!
//! The order makes a crash harmless. The root's status is read while it stays a zombie, which pins the PID that names its
//! session. A snapshot shows what it left. One transaction ends the root's row and records the strays, claimed by us: if we die
//! now, the next pass finds their rows. Only then are they signalled, and the zombie is reaped last.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    exit_statuses::Waiting,
    outcome::{Cause, suspects_of},
    run::{Leave, Seen, Tree, end_trees, strays},
    spared::{kept, leave_of},
};
use crate::{
    error::Result,
    model::{
        End, EndReason, ExitStatus, LeakKind, Millis, Origin, ProcessId, Report, RootEnd, Settled,
        Verdict, task_text,
    },
    sys::{PidFd, Pinned, Probe},
    tracker::{
        core::Core,
        runtime::{
            lock::lock,
            tracked::{Entry, REAPED_BY_PARENT},
        },
    },
};

/// The strays of dead roots.
struct Found<'a> {
    mine: Vec<&'a Dead>,
    statuses: Vec<ExitStatus>,
    /// The tree of each, with its strays.
    trees: Vec<Tree>,
    ends: Vec<RootEnd>,
    /// Roots in whose task cgroups something lives that cannot be seen.
    hiding: Vec<Arc<Entry>>,
}

/// A dead process, with the pidfd that reported its death.
pub(in crate::tracker) type Dead = (Arc<Entry>, Arc<PidFd>);

impl Core {
    /// Records the ends of processes that have died, and ends what they left. Processes that another thread is ending are left
    /// to that thread, and trees that another instance is ending are left to that instance.
    ///
    /// Where a status is not available yet, waits for it for a while: in the monitor's list where the monitor runs, here
    /// otherwise.
    pub(in crate::tracker) fn settle(self: &Arc<Self>, dead: &[Dead]) {
        let mine: Vec<Dead> = dead.iter().filter(|(entry, _)| entry.begin()).cloned().collect();
        self.settle_begun(&mine);
    }

    /// The same for processes that were reserved by [`Entry::begin`].
    pub(in crate::tracker) fn settle_begun(self: &Arc<Self>, mine: &[Dead]) {
        if mine.is_empty() {
            return;
        }
        let since = Instant::now();
        let mine: Vec<Waiting> = mine.iter().map(|dead| (dead.clone(), since)).collect();
        let waiting = self.settle_known(mine);
        self.wait_for_statuses(waiting);
    }

    /// Settles processes whose statuses are known, or were waited for long enough; returns the others.
    pub(in crate::tracker) fn settle_known(self: &Arc<Self>, mine: Vec<Waiting>) -> Vec<Waiting> {
        let deadline = Instant::now() + REAPED_BY_PARENT;
        let (mut known, mut statuses, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (dead, since) in mine {
            match self.status_or_patience(&dead, since, deadline) {
                Some(status) => {
                    known.push(dead);
                    statuses.push(status);
                }
                None => waiting.push((dead, since)),
            }
        }
        let (mine, statuses) = self.settle_alone(known.iter().collect(), statuses);
        if !mine.is_empty() {
            self.settle_looking(&mine, &statuses);
        }
        waiting
    }

    /// Settles any kind of root, by scanning every process.
    fn settle_looking(self: &Arc<Self>, mine: &[&Dead], statuses: &[ExitStatus]) {
        let Found { mine, statuses, trees, ends, hiding } = match self.find_strays(mine, statuses) {
            Ok(found) => found,
            Err(error) => {
                // Ending the row now would hide what its root has left: the health pass scans again.
                tracing::error!(
                    "failed to scan for what {} ended processes left: {error}",
                    mine.len()
                );
                for dead in mine {
                    if dead.0.is_recorded() {
                        // Its claimant died while ending it: the next check of claims retries.
                        lock(&self.claimed).push((*dead).clone());
                    } else {
                        dead.0.give_up();
                    }
                }
                return;
            }
        };
        match self.store.settle_roots(self.instance.id, &ends) {
            Ok(rows) => {
                for ((entry, _), status) in mine.iter().zip(statuses) {
                    self.mark_ended(entry, status);
                }
                self.notify_export();
                self.end_or_keep(&mine, trees, &rows);
            }
            Err(error) => {
                // They are ended regardless; the record waits in memory until the ledger can be written (invariant 10).
                tracing::error!(
                    "failed to record the end of {} processes: {error}; will be retried",
                    ends.len()
                );
                lock(&self.unwritten).extend(ends);
                let unrecorded = vec![Some(Vec::new()); mine.len()];
                self.end_strays(&mine, trees, &unrecorded);
            }
        }
        self.end_hiding(hiding);
    }

    /// Ends trees in whose task cgroups something lives that cannot be seen. It has no row of its own, so the root's row stays
    /// until the cgroup is empty.
    fn end_hiding(self: &Arc<Self>, entries: Vec<Arc<Entry>>) {
        if entries.is_empty() {
            return;
        }
        for entry in &entries {
            entry.give_up();
        }
        let core = Arc::clone(self);
        // What survives is logged, and stays in the ledger.
        let work = move || drop(core.end_entries(&stray(), &entries));
        if self.monitoring.load(Ordering::Acquire) {
            self.run_aside("procledger-strays", work);
        } else {
            work();
        }
    }

    /// Ends the strays of roots whose rows have ended. Roots that another instance is ending are held back until that is done.
    fn end_or_keep(
        self: &Arc<Self>,
        mine: &[&Dead],
        trees: Vec<Tree>,
        rows: &[Option<Vec<ProcessId>>],
    ) {
        let others: Vec<&Dead> = mine
            .iter()
            .zip(rows)
            .filter(|(_, rows)| rows.is_none())
            .map(|(dead, _)| *dead)
            .collect();
        let mut claimed = self.keep_claimed(&others).into_iter();
        let (mut settled, mut settled_trees, mut settled_rows) =
            (Vec::new(), Vec::new(), Vec::new());
        for ((dead, tree), rows) in mine.iter().zip(trees).zip(rows) {
            if rows.is_none() && claimed.next().unwrap_or(false) {
                continue;
            }
            settled.push(*dead);
            settled_trees.push(tree);
            settled_rows.push(rows.clone());
        }
        self.end_strays(&settled, settled_trees, &settled_rows);
    }

    /// Marks that its end, or at least its status, is in the ledger.
    pub(in crate::tracker) fn mark_ended(&self, entry: &Entry, status: ExitStatus) {
        log_end(entry, status);
        entry.mark_recorded();
        if let Some(since) = entry.died_since.get() {
            self.counters().detected(since.elapsed());
        }
    }

    /// Finds and pins what each dead root left, and prepares the rows that record it.
    fn find_strays<'a>(&self, dead: &[&'a Dead], statuses: &[ExitStatus]) -> Result<Found<'a>> {
        let mut trees: Vec<Tree> =
            dead.iter().map(|(entry, pidfd)| tree_of(entry, Some(pidfd))).collect();
        let targets: Vec<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        let below = self.store.below(&targets)?;
        for ((tree, (entry, _)), below) in trees.iter_mut().zip(dead).zip(below) {
            // A job may ask to keep its strays where its root ends by itself.
            tree.leave = Leave { all: entry.strays.keep, ..leave_of(entry, below.kept) };
            tree.recorded = below.live;
        }
        let left = strays(&self.world(&targets)?, &trees)?;
        let (mut mine, mut known) = (Vec::new(), Vec::new());
        let (mut seen, mut found, mut hiding) = (Vec::new(), Vec::new(), Vec::new());
        for (((dead, status), tree), left) in dead.iter().zip(statuses).zip(trees).zip(left) {
            for suspect in suspects_of(&self.store, tree.root.task.as_ref(), left.suspects) {
                tracing::warn!(
                    "process {} may have been left by task {}, and is left running: {}",
                    suspect.pid,
                    task_text(tree.root.task.as_ref()),
                    suspect.why
                );
            }
            if left.hides && !tree.leave.all {
                hiding.push(Arc::clone(&dead.0));
                continue;
            }
            mine.push(*dead);
            known.push(*status);
            seen.push(tree);
            let strays = left.members.into_iter().filter(|member| !member.is_root);
            found.push(strays.collect::<Vec<_>>());
        }
        let mut trees = seen;
        let ends = (mine.iter().zip(&known)).zip(trees.iter_mut().zip(&found));
        let ends = ends.map(|(((entry, _), status), (tree, strays))| RootEnd {
            process: tree.root.row,
            end: self.own_end(entry, *status),
            kept: self.set_apart(tree, strays),
            strays: new_strays(strays)
                .map(|stray| stray.info.new_row(self.instance.id, &tree.root))
                .collect(),
        });
        let ends = ends.collect();
        for (tree, strays) in trees.iter_mut().zip(&found) {
            // Until their rows are known, they have no row ID of their own.
            let new = new_strays(strays).map(|stray| (ProcessId::UNRECORDED, stray.info.identity));
            tree.recorded.extend(new);
        }
        Ok(Found { mine, statuses: known, trees, ends, hiding })
    }

    /// Returns the end of a root: by itself, or by the kernel for lack of memory, unless it was ended by us and that could not
    /// be recorded.
    pub(in crate::tracker) fn own_end(&self, entry: &Entry, status: ExitStatus) -> End {
        let by_the_kernel = || Some((EndReason::Oom, Some(self.oom_because(&entry.root, status)?)));
        let (reason, because) =
            entry.cause().or_else(by_the_kernel).unwrap_or((EndReason::Exited, None));
        End { reason, status, at: Millis::now(), error: None, because }
    }

    /// Removes from the tree what is left running on purpose; and, where everything is left, what has already exited.
    fn set_apart(&self, tree: &mut Tree, strays: &[Seen]) -> Vec<Settled> {
        let mut apart = Vec::new();
        for stray in strays {
            match (&stray.kept, stray.row) {
                (Some(why), _) if stray.alive => {
                    tree.leave.before.push(stray.info.identity);
                    let found = (stray.row, &stray.info);
                    apart.push(kept(self.instance.id, &tree.root, LeakKind::Stray, found, why));
                }
                (_, Some(row)) if tree.leave.all && !stray.alive => apart.push(gone(row)),
                _ => continue,
            }
            tree.recorded.retain(|(row, _)| Some(*row) != stray.row);
        }
        apart
    }

    /// Ends the strays, on a separate thread if there are any: the handling of the next death must not wait for their grace.
    fn end_strays(
        self: &Arc<Self>,
        dead: &[&Dead],
        trees: Vec<Tree>,
        rows: &[Option<Vec<ProcessId>>],
    ) {
        let mut with_strays = Vec::new();
        for (((entry, pidfd), mut tree), rows) in dead.iter().zip(trees).zip(rows) {
            // `None`: another instance has ended the tree, or it was released; what is left is not ours to end.
            let left =
                rows.as_deref().is_some_and(|rows| self.take_recorded(entry, &mut tree, rows));
            if left {
                with_strays.push((Arc::clone(entry), tree));
            } else {
                if rows.is_none() && self.is_released(entry.root.row) {
                    self.release(entry.root.row);
                }
                self.reap_and_let_go(entry, Some(pidfd));
            }
        }
        if with_strays.is_empty() {
            return;
        }
        let core = Arc::clone(self);
        let work = move || core.end_stray_trees(with_strays);
        if self.monitoring.load(Ordering::Acquire) {
            self.run_aside("procledger-strays", work);
        } else {
            work();
        }
    }

    /// Gives the strays their row IDs and claims descendants that earlier passes recorded; returns whether there are any.
    fn take_recorded(&self, entry: &Entry, tree: &mut Tree, rows: &[ProcessId]) -> bool {
        let mut rows = rows.iter();
        let (new, earlier): (Vec<_>, Vec<_>) =
            tree.recorded.drain(..).partition(|(row, _)| *row == ProcessId::UNRECORDED);
        let kept = earlier.clone();
        let earlier: Vec<ProcessId> = earlier.into_iter().map(|(row, _)| row).collect();
        if entry.strays.keep {
            // Only those that could not be identified are left in the list.
            self.release_all(&earlier);
            return false;
        }
        let mut row = || rows.next().copied().unwrap_or(ProcessId::UNRECORDED);
        tree.recorded.extend(new.into_iter().map(|(_, identity)| (row(), identity)));
        match self.store.claim(&earlier, self.instance.id, Some(self.instance.id), None) {
            Ok(claimed) => {
                tree.recorded.extend(claimed.iter().map(|record| (record.id, record.identity)));
            }
            Err(error) => {
                tracing::error!(
                    "failed to claim recorded descendants: {error}; ending them anyway"
                );
                tree.recorded.extend(kept);
            }
        }
        !tree.recorded.is_empty()
    }

    /// Releases what a task is allowed to leave behind: no instance is responsible for it any more.
    fn release_all(&self, rows: &[ProcessId]) {
        for &row in rows {
            if let Err(error) = self.store.release(row, self.instance.id, Millis::now()) {
                tracing::error!("failed to release a process that a task left: {error}");
            }
        }
    }

    fn end_stray_trees(&self, trees: Vec<(Arc<Entry>, Tree)>) {
        let (entries, trees): (Vec<_>, Vec<_>) = trees.into_iter().unzip();
        self.end_strays_of(trees);
        for entry in entries {
            self.reap_and_let_go(&entry, None);
        }
    }

    /// Ends what is left of trees whose roots' ends are recorded.
    pub(in crate::tracker) fn end_strays_of(&self, trees: Vec<Tree>) {
        let targets: Vec<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        let cause = stray();
        let mut report = Report::default();
        match self.world(&targets) {
            Ok(world) => {
                let mut ends =
                    end_trees(&world, trees, &mut |root, found| self.record_found(root, found));
                for end in &mut ends {
                    // The root's own end is recorded already.
                    end.members.retain(|member| !member.is_root);
                    end.unknown.retain(|(row, _)| *row != end.root.row);
                    for member in &mut end.members {
                        member.row = member.row.filter(|row| *row != ProcessId::UNRECORDED);
                    }
                }
                let settled = self.conclude(&cause, ends, &mut report);
                self.write(None, settled, &mut report);
            }
            Err(error) => {
                // Give the claims back, so that the health pass retries.
                tracing::error!("failed to end what ended processes left running: {error}");
                let rows = trees.iter().flat_map(|tree| &tree.recorded).map(|(row, _)| *row);
                let settled = rows.filter(|row| *row != ProcessId::UNRECORDED);
                let settled = settled.map(|row| super::outcome::given_back(row, &error)).collect();
                self.write(None, settled, &mut report);
            }
        }
    }

    pub(in crate::tracker) fn reap_and_let_go(
        &self,
        entry: &Arc<Entry>,
        pidfd: Option<&Arc<PidFd>>,
    ) {
        self.remember_for_zombies(&entry.root);
        if (entry.child || entry.lacks_status())
            && let Some(fd) = pidfd.cloned().or_else(|| self.pidfd_of(entry))
        {
            self.finish_later(entry, fd);
        }
        self.remove_leaf(entry.root.cgroup.as_ref());
        self.let_go(entry.root.row);
    }

    /// Returns the pidfd that is held; beyond the descriptor limit a new one, while the process still has its PID.
    pub(in crate::tracker) fn pidfd_of(&self, entry: &Entry) -> Option<Arc<PidFd>> {
        entry.pidfd.clone().or_else(|| {
            match Pinned::probe(&self.proc, self.place(), &entry.root.identity) {
                Probe::Alive(pinned) | Probe::Zombie(pinned) => Some(pinned.into_fd()),
                Probe::Gone | Probe::Unknown(_) => None,
            }
        })
    }

    /// Keeps a thread for shutdown to join.
    pub(in crate::tracker) fn keep_thread(&self, thread: std::thread::JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Runs `work` on a thread that shutdown waits for; on the calling thread where none can be created.
    pub(in crate::tracker) fn run_aside(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let slot = Arc::new(std::sync::Mutex::new(Some(work)));
        let theirs = Arc::clone(&slot);
        let run = move || {
            crate::sys::leave_signals_to_the_host();
            let work = lock(&theirs).take();
            if let Some(work) = work {
                work();
            }
        };
        if let Ok(handle) = std::thread::Builder::new().name(name.into()).spawn(run) {
            self.keep_thread(handle);
        } else {
            let work = lock(&slot).take();
            if let Some(work) = work {
                work();
            }
        }
    }
}

/// Returns the tree of a root of this instance, pinned by a descriptor that is already held.
pub(in crate::tracker) fn tree_of(entry: &Entry, pidfd: Option<&Arc<PidFd>>) -> Tree {
    Tree {
        root: entry.root.clone(),
        pidfd: pidfd.or(entry.pidfd.as_ref()).cloned(),
        recorded: Vec::new(),
        leave: Leave::default(),
    }
}

/// Returns the cause for which strays are ended.
pub(in crate::tracker) fn stray() -> Cause {
    Cause {
        reason: EndReason::Stray,
        leak: Some(LeakKind::Stray),
        rule: "its root had ended".into(),
    }
}

/// Strays that are to be ended and have no row yet.
fn new_strays(strays: &[Seen]) -> impl Iterator<Item = &Seen> {
    strays.iter().filter(|stray| stray.alive && stray.kept.is_none() && stray.row.is_none())
}

/// Returns the end of a recorded descendant that exited unobserved.
fn gone(row: ProcessId) -> Settled {
    let end = End {
        reason: EndReason::Gone,
        status: ExitStatus::Unobserved,
        at: Millis::now(),
        error: None,
        because: None,
    };
    Settled { process: row, verdict: Verdict::Ended(end), leak: None }
}

/// Logs the line of the former implementation for a process whose end was not expected; for a program that we spawned, an end
/// is not worth more than a debug line.
fn log_end(entry: &Entry, status: ExitStatus) {
    let pid = entry.root.identity.pid;
    let task = task_text(entry.root.task.as_ref());
    if entry.root.origin == Origin::Spawned {
        tracing::debug!("process {pid} for task {task} has ended: {status}");
    } else {
        log_dead(pid, &task);
    }
}

/// Logs the wording of the former implementation.
pub(in crate::tracker) fn log_dead(pid: crate::identity::Pid, task: &str) {
    tracing::info!("Process {pid} for task {task} is no longer alive - removing from registry");
}
