//! Ends that the owner of a task, or a person, requested.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    claims::CLAIM_PAUSE,
    kill_options::KillOptions,
    outcome::Cause,
    root_exit::tree_of,
    run::{Leave, StopRequest, Tree, World, end_trees, end_trees_unless},
    spared::leave_of,
};
use crate::{
    error::{Error, Kind, Result},
    model::{EndReason, InstanceId, ProcessId, ProcessRecord, Report, Settled, TaskId},
    store::{Below, TakeOver},
    tracker::{
        Tracker,
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::tracked::{Entry, Root},
    },
};

/// Another thread or instance that is ending a tree, or recording its end, is done within this time plus the grace: a cap on
/// the grace, and a second for each kill.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);

impl Tracker {
    /// Ends the whole tree of a task of this instance: sends SIGTERM, waits for the grace, sends SIGKILL, and verifies that
    /// each process is dead.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when this instance runs no such task. What could not be ended is listed in the
    /// report ([`Report::survived`]), and is not an error.
    pub fn terminate(&self, task_id: &str) -> Result<Report> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let task = TaskId::new(task_id)?;
        let entries = core.own_entries_of(&task)?;
        if entries.is_empty() {
            return Err(not_found(&task, "this instance"));
        }
        core.terminate_entries(&entries)
    }

    /// Ends tasks of *any* instance because a person requested it; `asked_by` is recorded in the history.
    ///
    /// Where another instance is already ending a task, and waits for its grace, that is cut short: the claim is taken over and
    /// the tree gets SIGKILL at once. The claim of an instance that died while ending the task is taken over with the whole
    /// grace.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found), before anything is signalled, when the ledger has no live process for one of the
    /// tasks.
    pub fn kill(&self, task_ids: &[&str], asked_by: &str) -> Result<Report> {
        self.kill_with(task_ids, asked_by, KillOptions::new())
    }

    /// Does the same with another grace, another first signal, or the root of each tree first.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill); invalid input for a number that is no signal.
    pub fn kill_with(&self, task_ids: &[&str], asked_by: &str, how: KillOptions) -> Result<Report> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let mut rows = Vec::new();
        for id in task_ids {
            let task = TaskId::new(*id)?;
            let live = core.store.live_of_task(&task)?;
            if live.is_empty() {
                return Err(not_found(&task, "the ledger"));
            }
            rows.extend(live);
        }
        kill_rows(core, &rows, &asked(asked_by), Some(asked_by), how)
    }

    /// Ends every live task of the ledger because a person requested it.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read or written.
    pub fn kill_all(&self, asked_by: &str) -> Result<Report> {
        self.kill_all_with(asked_by, KillOptions::new())
    }

    /// Does the same with another grace, another first signal, or the root of each tree first.
    ///
    /// # Errors
    ///
    /// As [`kill_all`](Self::kill_all); invalid input for a number that is no signal.
    pub fn kill_all_with(&self, asked_by: &str, how: KillOptions) -> Result<Report> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let rows = core.store.live()?;
        kill_rows(core, &rows, &asked(asked_by), Some(asked_by), how)
    }
}

impl Tracker {
    /// Interrupts each [`kill`](Self::kill) of this tracker that waits in a grace, now and in future: it gives its claims back
    /// and returns, and what has not ended by then runs on. A tree whose grace is over is ended regardless.
    ///
    /// Meant for a signal that asks a command to stop: the claim of a dead instance is taken over by the next one that acts,
    /// but until then the row says `ending`.
    pub fn interrupt_kills(&self) {
        self.inner.core.interrupted.store(true, Ordering::Release);
    }
}

fn not_found(task: &TaskId, whose: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{whose} runs no task {:?}: `procledger ps` lists what runs", task.as_str()),
    )
}

fn asked(asked_by: &str) -> Cause {
    Cause { reason: EndReason::Killed, leak: None, rule: format!("asked by {asked_by}") }
}

/// Ends live rows of any instance, even if another one is ending them.
pub(in crate::tracker) fn kill_rows(
    core: &Arc<Core>,
    rows: &[ProcessRecord],
    cause: &Cause,
    asked_by: Option<&str>,
    how: KillOptions,
) -> Result<Report> {
    let request = how.request()?;
    let _pass = core.pass.lock().unwrap_or_else(PoisonError::into_inner);
    let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
    let dead = core.dead_claimants_of(rows);
    let over = TakeOver { dead: &dead, live: true };
    let claimed = core.store.claim_over(&ids, core.instance.id, None, asked_by, over)?;
    let mut report = Report::default();
    let claimed = hurry(claimed, &dead, how.grace);
    let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
    let owners = claimed.iter().map(|record| (record.id, record.owner)).collect();
    let cause_of = |_| cause.clone();
    let interrupt = Some(&core.interrupted);
    let settled = core.end_claimed_unless(&cause_of, claimed, &mut report, request, interrupt);
    core.await_noted(&owners, &settled);
    core.write(None, settled, &mut report);
    core.release_ended(&rows);
    Ok(report)
}

/// Sets the grace, where one was requested, and removes that of trees that another live instance was ending: they have had
/// their time, and are killed at once.
fn hurry(
    claimed: Vec<(ProcessRecord, Option<InstanceId>)>,
    dead: &[InstanceId],
    grace: Option<Duration>,
) -> Vec<ProcessRecord> {
    let root = |record: &ProcessRecord| record.root.unwrap_or(record.id);
    let hurried: HashSet<ProcessId> = (claimed.iter())
        .filter(|(_, former)| former.is_some_and(|former| !dead.contains(&former)))
        .map(|(record, _)| root(record))
        .collect();
    let hurry = |(mut record, _): (ProcessRecord, _)| {
        if hurried.contains(&root(&record)) {
            record.limits.grace = Duration::ZERO;
        } else if let Some(grace) = grace {
            record.limits.grace = grace;
        }
        record
    };
    claimed.into_iter().map(hurry).collect()
}

impl Core {
    /// Returns the roots of the task that this instance holds; empty if there are none.
    pub(in crate::tracker) fn own_entries_of(&self, task: &TaskId) -> Result<Vec<Arc<Entry>>> {
        match self.store.live_of_task(task) {
            Ok(rows) => {
                // Where the root has just ended by itself, the rows of what it left lead to it: its end is waited for.
                let roots = rows.iter().map(|row| row.root.unwrap_or(row.id));
                let roots: HashSet<ProcessId> = roots.collect();
                Ok(roots.iter().filter_map(|row| self.entry(*row)).collect())
            }
            Err(error) => self.entries_of(task, error),
        }
    }

    /// Returns the roots of the task that we hold, for when the ledger cannot be read: our own are ended regardless (invariant
    /// 10).
    fn entries_of(&self, task: &TaskId, error: Error) -> Result<Vec<Arc<Entry>>> {
        let mut entries = self.all_entries();
        entries.retain(|entry| entry.root.task.as_ref() == Some(task));
        if entries.is_empty() {
            return Err(error);
        }
        tracing::error!("{error}; ending task {task} anyway");
        Ok(entries)
    }

    /// Ends the trees of claimed rows, and returns what to write.
    pub(in crate::tracker) fn end_claimed(
        &self,
        cause: &Cause,
        claimed: Vec<ProcessRecord>,
        report: &mut Report,
    ) -> Vec<Settled> {
        let request = StopRequest::default();
        self.end_claimed_unless(&|_| cause.clone(), claimed, report, request, None)
    }

    /// The same, with a cause for the tree of each row.
    pub(in crate::tracker) fn end_claimed_each(
        &self,
        cause_of: &dyn Fn(ProcessId) -> Cause,
        claimed: Vec<ProcessRecord>,
        report: &mut Report,
    ) -> Vec<Settled> {
        self.end_claimed_unless(cause_of, claimed, report, StopRequest::default(), None)
    }

    /// The same; gives the claims back once `interrupt` is set.
    fn end_claimed_unless(
        &self,
        cause_of: &dyn Fn(ProcessId) -> Cause,
        mut claimed: Vec<ProcessRecord>,
        report: &mut Report,
        request: StopRequest,
        interrupt: Option<&AtomicBool>,
    ) -> Vec<Settled> {
        if claimed.is_empty() {
            return Vec::new();
        }
        let logs = self.take_end_logs(&mut claimed, report);
        let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
        let world = match self.world(&rows) {
            Ok(world) => world,
            Err(error) => {
                // Give the claims back, so that the next pass retries.
                let settled = rows.iter().map(|row| super::outcome::given_back(*row, &error));
                report.errors.push(error.to_string());
                return settled.collect();
            }
        };
        let trees = match self.group(claimed) {
            Ok(trees) => trees,
            Err(error) => {
                let settled = rows.iter().map(|row| super::outcome::given_back(*row, &error));
                report.errors.push(error.to_string());
                return settled.collect();
            }
        };
        let recorder = &mut |root: &Root, found: &[&ProcessInfo]| self.record_found(root, found);
        let mut ends = end_trees_unless(&world, trees, recorder, request, interrupt);
        logs.complete(&mut ends);
        self.conclude_each(cause_of, ends, report)
    }

    /// Groups claimed rows into trees: descendants are grouped with their root; where the root has ended, each is a tree of its
    /// own.
    fn group(&self, claimed: Vec<ProcessRecord>) -> Result<Vec<Tree>> {
        let (roots, descendants): (Vec<_>, Vec<_>) =
            claimed.into_iter().partition(|record| record.root.is_none());
        let mut trees = self.trees_of_rows(&roots)?;
        let index: HashMap<ProcessId, usize> =
            trees.iter().enumerate().map(|(index, tree)| (tree.root.row, index)).collect();
        let mut alone = Vec::new();
        for record in descendants {
            match record.root.and_then(|root| index.get(&root)) {
                Some(&index) => trees[index].recorded.push((record.id, record.identity)),
                None => alone.push(record),
            }
        }
        trees.extend(self.trees_of_rows(&alone)?);
        Ok(trees)
    }

    /// Returns trees for which only the rows are known, in the order of `records`.
    pub(in crate::tracker) fn trees_of_rows(&self, records: &[ProcessRecord]) -> Result<Vec<Tree>> {
        let tree = |(record, leave): (&ProcessRecord, Leave)| Tree {
            root: self.root_of(record),
            pidfd: self.entry(record.id).and_then(|entry| entry.pidfd.clone()),
            recorded: Vec::new(),
            leave,
        };
        Ok(records.iter().zip(self.leaves_of(records)?).map(tree).collect())
    }

    /// Ends trees of this instance because it requested that.
    pub(in crate::tracker) fn terminate_entries(
        self: &Arc<Self>,
        entries: &[Arc<Entry>],
    ) -> Result<Report> {
        self.instance.check_usable()?;
        let cause =
            Cause { reason: EndReason::Terminated, leak: None, rule: "its owner asked".into() };
        Ok(self.end_entries(&cause, entries))
    }

    /// Ends trees of this instance, even when the claim cannot be written (invariant 10).
    ///
    /// What another thread, or another instance, is ending is given as long as an end may take. After that, a tree that another
    /// instance has claimed is ended here, since a hanging instance must not keep an owner's processes alive.
    pub(in crate::tracker) fn end_entries(
        self: &Arc<Self>,
        cause: &Cause,
        entries: &[Arc<Entry>],
    ) -> Report {
        let mut report = Report::default();
        let grace = entries.iter().map(|entry| entry.root.limits.grace).max().unwrap_or_default();
        let deadline = Instant::now() + OTHERS_LIMIT + grace;
        let (mine, busy): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.begin());
        // 1. Trees that are free, and trees that a dead instance had claimed.
        let mut claimed = self.end_free(cause, &mine, TakeOver::default(), &mut report);
        // 2. Trees that other instances are ending.
        while !claimed.is_empty() {
            let late = Instant::now() >= deadline;
            claimed = self.end_what_is_free(cause, claimed, late, &mut report);
            if late {
                break;
            }
            if !claimed.is_empty() {
                std::thread::sleep(CLAIM_PAUSE);
            }
        }
        // 3. Trees that other threads are ending, or other instances after the root has died.
        for entry in busy {
            while !entry.wait_over(deadline.min(Instant::now() + CLAIM_PAUSE))
                && Instant::now() < deadline
            {
                if !self.is_monitoring() {
                    self.settle_claimed(&[]);
                }
            }
            if !entry.is_over() {
                self.settle_claimed(std::slice::from_ref(entry));
            }
        }
        report
    }

    /// Checks once the trees that other instances were ending: ends those that are free now, or all of them with `force`.
    /// Returns the others.
    fn end_what_is_free(
        self: &Arc<Self>,
        cause: &Cause,
        mut claimed: Vec<Arc<Entry>>,
        force: bool,
        report: &mut Report,
    ) -> Vec<Arc<Entry>> {
        if !self.is_monitoring() {
            self.settle(&self.dead_among(claimed.iter().cloned()));
            self.settle_claimed(&[]);
        }
        claimed.retain(|entry| !entry.is_over());
        let rows: Vec<ProcessId> = claimed.iter().map(|entry| entry.root.row).collect();
        let Ok(claimants) = self.store.claimants(&rows) else { return claimed };
        let is_held = |claimant: Option<InstanceId>| {
            claimant.is_some_and(|by| by != self.instance.id && !self.is_dead_claimant(by))
        };
        let (held, free): (Vec<_>, Vec<_>) = claimed
            .into_iter()
            .zip(claimants)
            .partition(|(_, claimant)| !force && is_held(*claimant));
        let free: Vec<Arc<Entry>> = free.into_iter().map(|(entry, _)| entry).collect();
        let (begun, busy): (Vec<_>, Vec<_>) = free.iter().partition(|entry| entry.begin());
        let over = TakeOver { dead: &[], live: force };
        let mut left = self.end_free(cause, &begun, over, report);
        left.extend(busy.into_iter().cloned());
        left.extend(held.into_iter().map(|(entry, _)| entry));
        left
    }

    /// Ends the trees that can be claimed, each reserved by [`Entry::begin`]; returns those that other instances are ending.
    fn end_free(
        self: &Arc<Self>,
        cause: &Cause,
        mine: &[&Arc<Entry>],
        over: TakeOver<'_>,
        report: &mut Report,
    ) -> Vec<Arc<Entry>> {
        let (claimed, recorded) = self.claim_own(mine, over);
        let rows: Vec<ProcessId> = claimed.iter().map(|tree| tree.root.row).collect();
        let ours: HashSet<ProcessId> = rows.iter().copied().collect();
        let mut others = Vec::new();
        for entry in mine.iter().filter(|entry| !ours.contains(&entry.root.row)) {
            // Another instance is ending it, for a person's kill, or has already settled it.
            self.give_up(entry);
            others.push(Arc::clone(entry));
        }
        let world = self.world_or_certain(&rows, report);
        self.end_own(cause, &world, claimed, recorded, report);
        self.release_ended(&rows);
        self.leave_to_keepers(mine);
        others
    }

    /// Returns the context for an end of our own. Where it is unknown which processes other instances are responsible for, only
    /// what is certainly below our own roots is ended.
    pub(in crate::tracker) fn world_or_certain(
        &self,
        rows: &[ProcessId],
        report: &mut Report,
    ) -> World<'_> {
        self.world(rows).unwrap_or_else(|error| {
            report.errors.push(error.to_string());
            World {
                proc: &self.proc,
                observer: self.instance.observer,
                own: self.own_pid(),
                ancestors: self.proc.ancestors(self.own_pid()),
                foreign: Vec::new(),
                protected: &self.options.protected,
            }
        })
    }

    /// For a tree that keeps forking, it may be unknown whether all of it was seen. Where it has a keeper, the keeper knows:
    /// the root's end is settled now, and the keeper ends the rest, instead of leaving both to the next pass.
    fn leave_to_keepers(self: &Arc<Self>, entries: &[&Arc<Entry>]) {
        let kept = entries.iter().filter(|entry| entry.kept.is_some());
        let dead = self.dead_among(kept.map(|entry| Arc::clone(entry)));
        self.settle(&dead);
        for (entry, _) in dead {
            entry.wait_over(Instant::now() + OTHERS_LIMIT + entry.root.limits.grace);
        }
    }

    fn end_own(
        &self,
        cause: &Cause,
        world: &World<'_>,
        trees: Vec<Tree>,
        claim_recorded: bool,
        report: &mut Report,
    ) {
        let ends = end_trees(world, trees, &mut |root, found| self.record_found(root, found));
        let settled = self.conclude(cause, ends, report);
        if claim_recorded {
            self.write(None, settled, report);
        } else {
            // A row without a claim is not updated: the claim is written later, with the outcome.
            report.errors.push("the ledger could not be written while tasks were ended".into());
            crate::tracker::runtime::lock::lock(&self.unsettled).extend(settled);
            self.write_late();
        }
    }

    /// Claims our own roots with their recorded descendants; returns all of them, and `false`, where the ledger cannot be
    /// written.
    pub(in crate::tracker) fn claim_own(
        &self,
        entries: &[&Arc<Entry>],
        over: TakeOver<'_>,
    ) -> (Vec<Tree>, bool) {
        let mut trees: Vec<Tree> = entries.iter().map(|entry| tree_of(entry, None)).collect();
        let roots: Vec<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        // Where the ledger cannot be read either, the names that are known here still apply; and a session holds the processes
        // of a root without recorded descendants.
        let below =
            self.store.below(&roots).unwrap_or_else(|_| vec![Below::default(); roots.len()]);
        let mut rows = Vec::with_capacity(trees.len());
        for ((tree, entry), below) in trees.iter_mut().zip(entries).zip(below) {
            let live = below.live.iter().map(|(row, _)| *row);
            rows.push([tree.root.row].into_iter().chain(live).collect());
            tree.leave = leave_of(entry, below.kept);
            tree.recorded = below.live;
        }
        match self.claim_trees(&rows, over) {
            Ok(claimed) => {
                trees.retain(|tree| claimed.contains(&tree.root.row));
                (trees, true)
            }
            Err(error) => {
                if !trees.is_empty() {
                    tracing::error!(
                        "failed to record that {} tasks are being ended: {error}; ending them anyway",
                        trees.len()
                    );
                }
                (trees, false)
            }
        }
    }

    /// Checks for claims of dead instances only where a row is not free.
    fn claim_trees(
        &self,
        trees: &[Vec<ProcessId>],
        over: TakeOver<'_>,
    ) -> Result<HashSet<ProcessId>> {
        if trees.is_empty() {
            return Ok(HashSet::new());
        }
        let mut claimed: HashSet<ProcessId> =
            self.store.claim_own(trees, self.instance.id, over)?.into_iter().collect();
        let missed: Vec<Vec<ProcessId>> =
            trees.iter().filter(|tree| !claimed.contains(&tree[0])).cloned().collect();
        let roots: Vec<ProcessId> = missed.iter().map(|tree| tree[0]).collect();
        if !roots.is_empty() {
            let dead = self.dead_among_claimants(&roots)?;
            if !dead.is_empty() {
                let over = TakeOver { dead: &dead, live: false };
                claimed.extend(self.store.claim_own(&missed, self.instance.id, over)?);
            }
        }
        Ok(claimed)
    }
}
