//! Ending tasks because their owner, or a person, asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Tracker,
    ending::{Leave, Tree, end_trees},
    entry::Entry,
    keep::leave_of,
    outcome::Cause,
    settle::tree_of,
    shared::Shared,
};
use crate::{
    error::{Error, Kind, Result},
    record::{EndReason, ProcessId, ProcessRecord, Report, Settled, TaskId},
    store::Below,
};

/// Somebody else who is ending a tree, or recording its end, is done within this and its grace: a cap on the grace, a second
/// for each kill.
const OTHERS_LIMIT: Duration = Duration::from_secs(5);

impl Tracker {
    /// Ends the whole tree of a task of this instance: SIGTERM, the grace, SIGKILL, and a look that each is dead.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when this instance runs no such task. What could not be ended is in the
    /// report ([`Report::survived`]), and no error.
    pub fn terminate(&self, task_id: &str) -> Result<Report> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let task = TaskId::new(task_id)?;
        let entries = match shared.store.live_of_task(&task) {
            Ok(rows) => {
                // Where the root has just ended by itself, what it left leads to it: its end is waited for.
                let roots = rows.iter().map(|row| row.root.unwrap_or(row.id));
                let roots: HashSet<ProcessId> = roots.collect();
                roots.iter().filter_map(|row| shared.entry(*row)).collect()
            }
            Err(error) => shared.entries_of(&task, error)?,
        };
        if entries.is_empty() {
            return Err(not_found(&task, "this instance"));
        }
        shared.terminate_entries(&entries)
    }

    /// Ends tasks of *any* instance because a person asked; `asked_by` goes into the history.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found), before anything is touched, when the ledger has no live process for one of
    /// the tasks.
    pub fn kill(&self, task_ids: &[&str], asked_by: &str) -> Result<Report> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let mut rows = Vec::new();
        for id in task_ids {
            let task = TaskId::new(*id)?;
            let live = shared.store.live_of_task(&task)?;
            if live.is_empty() {
                return Err(not_found(&task, "the ledger"));
            }
            rows.extend(live);
        }
        kill_rows(shared, &rows, asked_by)
    }

    /// Ends every live task of the ledger because a person asked.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read or written.
    pub fn kill_all(&self, asked_by: &str) -> Result<Report> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let rows = shared.store.live()?;
        kill_rows(shared, &rows, asked_by)
    }
}

fn not_found(task: &TaskId, whose: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("{whose} runs no task {:?}: `procledger ps` lists what runs", task.as_str()),
    )
}

fn kill_rows(shared: &Arc<Shared>, rows: &[ProcessRecord], asked_by: &str) -> Result<Report> {
    let _pass = shared.pass.lock().unwrap_or_else(PoisonError::into_inner);
    let ids: Vec<ProcessId> = rows.iter().map(|row| row.id).collect();
    let claimed = shared.store.claim(&ids, shared.instance, None, Some(asked_by))?;
    let mut report = Report::default();
    let missed = rows.len() - claimed.len();
    if missed > 0 {
        report.errors.push(format!("{missed} processes are being ended by somebody else already"));
    }
    let cause =
        Cause { reason: EndReason::Killed, leak: None, rule: format!("asked by {asked_by}") };
    let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
    let settled = shared.end_claimed(&cause, claimed, &mut report);
    shared.write(None, settled, &mut report);
    shared.release_ended(&rows);
    Ok(report)
}

impl Shared {
    /// Roots of the task that we hold, where the ledger could not be asked: ours are ended all the same (invariant 10).
    fn entries_of(&self, task: &TaskId, error: Error) -> Result<Vec<Arc<Entry>>> {
        let mut entries = self.all_entries();
        entries.retain(|entry| entry.root.task.as_ref() == Some(task));
        if entries.is_empty() {
            return Err(error);
        }
        tracing::error!("{error}; the task {task} is ended all the same");
        Ok(entries)
    }

    /// Ends the trees of rows that were claimed, and answers with what there is to write.
    pub(super) fn end_claimed(
        &self,
        cause: &Cause,
        claimed: Vec<ProcessRecord>,
        report: &mut Report,
    ) -> Vec<Settled> {
        self.end_claimed_each(&|_| cause, claimed, report)
    }

    /// The same, together, where each root has a cause of its own.
    pub(super) fn end_claimed_each<'a>(
        &self,
        cause_of: &dyn Fn(ProcessId) -> &'a Cause,
        claimed: Vec<ProcessRecord>,
        report: &mut Report,
    ) -> Vec<Settled> {
        if claimed.is_empty() {
            return Vec::new();
        }
        let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
        let world = match self.world(&rows) {
            Ok(world) => world,
            Err(error) => {
                // The claims go back, so that the next pass tries again.
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
        let ends = end_trees(&world, trees, &mut |root, found| self.record_found(root, found));
        self.conclude_each(cause_of, ends, report)
    }

    /// Groups claimed rows into trees: descendants go with their root, and stand alone where it has ended.
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

    /// Trees of which no more is known than their rows, in the order of these.
    pub(super) fn trees_of_rows(&self, records: &[ProcessRecord]) -> Result<Vec<Tree>> {
        let tree = |(record, leave): (&ProcessRecord, Leave)| Tree {
            root: self.root_of(record),
            pidfd: self.entry(record.id).and_then(|entry| entry.pidfd.clone()),
            recorded: Vec::new(),
            leave,
        };
        Ok(records.iter().zip(self.leaves_of(records)?).map(tree).collect())
    }

    /// Ends trees that this instance answers for, because it asked.
    pub(super) fn terminate_entries(self: &Arc<Self>, entries: &[Arc<Entry>]) -> Result<Report> {
        self.check_usable()?;
        let cause =
            Cause { reason: EndReason::Terminated, leak: None, rule: "its owner asked".into() };
        Ok(self.end_entries(&cause, entries))
    }

    /// Ends trees that this instance answers for. Ours are ended even when the claim cannot be written (invariant 10).
    pub(super) fn end_entries(self: &Arc<Self>, cause: &Cause, entries: &[Arc<Entry>]) -> Report {
        let mut report = Report::default();
        let (mine, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.begin());
        let (claimed, recorded) = self.claim_own(&mine);
        let rows: Vec<ProcessId> = claimed.iter().map(|tree| tree.root.row).collect();
        let ours: HashSet<ProcessId> = rows.iter().copied().collect();
        for entry in mine.iter().filter(|entry| !ours.contains(&entry.root.row)) {
            // Somebody else decided: a person's kill, or it has been settled.
            self.give_up(entry);
        }
        match self.world(&rows) {
            Ok(world) => self.end_own(cause, &world, claimed, recorded, &mut report),
            Err(error) => {
                // Whom to leave alone is not known: only what is certainly below our own roots is ended.
                report.errors.push(error.to_string());
                let world = super::ending::World {
                    proc: &self.proc,
                    observer: self.observer,
                    own: self.own_pid(),
                    ancestors: self.proc.ancestors(self.own_pid()),
                    guards: Vec::new(),
                    protected: &self.options.protected,
                };
                self.end_own(cause, &world, claimed, recorded, &mut report);
            }
        }
        self.release_ended(&rows);
        let grace = others.iter().map(|entry| entry.root.limits.grace).max().unwrap_or_default();
        let deadline = Instant::now() + OTHERS_LIMIT + grace;
        for entry in others {
            entry.wait_over(deadline);
        }
        report
    }

    fn end_own(
        &self,
        cause: &Cause,
        world: &super::ending::World<'_>,
        trees: Vec<Tree>,
        claim_recorded: bool,
        report: &mut Report,
    ) {
        let ends = end_trees(world, trees, &mut |root, found| self.record_found(root, found));
        let settled = self.conclude(cause, ends, report);
        if claim_recorded {
            self.write(None, settled, report);
        } else {
            // What nobody holds a claim of is not recorded: the claim comes late, with the outcome.
            report.errors.push("the ledger could not be written while tasks were ended".into());
            super::shared::lock(&self.unsettled).extend(settled);
            self.write_late();
        }
    }

    /// Claims our own roots with their recorded descendants; all of them, and `false`, where the ledger cannot be written.
    fn claim_own(&self, entries: &[&Arc<Entry>]) -> (Vec<Tree>, bool) {
        let mut trees: Vec<Tree> = entries.iter().map(|entry| tree_of(entry, None)).collect();
        let mut ids: Vec<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        // Where the ledger cannot be read either, the names that are known here still count; and a session holds what a
        // root without recorded descendants has.
        let below = self.store.below(&ids).unwrap_or_else(|_| vec![Below::default(); ids.len()]);
        for ((tree, entry), below) in trees.iter_mut().zip(entries).zip(below) {
            ids.extend(below.live.iter().map(|(row, _)| *row));
            tree.leave = leave_of(entry, below.kept);
            tree.recorded = below.live;
        }
        match self.store.claim_own(&ids, self.instance) {
            Ok(claimed) => {
                let claimed: HashSet<ProcessId> = claimed.into_iter().collect();
                trees.retain(|tree| claimed.contains(&tree.root.row));
                (trees, true)
            }
            Err(error) => {
                tracing::error!(
                    "failed to record that {} tasks are being ended: {error}; they are ended all the same",
                    trees.len()
                );
                (trees, false)
            }
        }
    }
}
