//! Reads a ledger without changing it.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{
    error::{Error, Result},
    export,
    identity::Pid,
    model::{
        DeadInstance, Ending, LeakRecord, Millis, Observer, Outcome, PassRecord, PassSummary,
        ProcessId, ProcessRecord, Query, Report, Rule, RuleKey, State, Suspect, TaskId,
    },
    policy::{exemption::Foreign, name_match::Judgement},
    store::{LeakGroup, LeakGrouping, LeakReport, Store},
    sys::{Proc, current_pid_scope, reserved_paths::refuse_as_output},
    tracker::{
        core::Core,
        end::{
            outcome::suspects_of,
            run::{EndContext, Exemptions, Preview, TreeTarget, previews},
        },
        membership::{foreign_roots::may_be_responsible, recorded_keeper::recorded_keeper},
        options::trusted_or_by_environment,
        passes::name_match::{Search, accounted_for, leave},
        runtime::{
            liveness::{Liveness, LivenessCheck, orphan_rule},
            tracked::Root,
        },
    },
};

/// A ledger that is open for reading. Opening it creates no instance and changes nothing.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// # procledger::Tracker::builder(&path).open()?.shutdown()?;
/// let ledger = procledger::Ledger::open(&path)?;
/// assert!(ledger.processes()?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    /// The names of programs that a dry run protects.
    protected: Vec<String>,
}

impl Ledger {
    /// Returns the ledger of an open tracker.
    pub(in crate::tracker) fn of(core: &Core) -> Self {
        Self { store: core.store.clone(), protected: core.options.protected.clone() }
    }

    /// Opens an existing ledger for reading.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) if there is none at `path`; otherwise as for
    /// [`Builder::open`](crate::Builder::open).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { store: Store::open_read_only(path.as_ref())?, protected: Vec::new() })
    }

    /// Migrates an existing ledger to the current schema, like
    /// [`Builder::open`](crate::Builder::open). Returns whether there was anything to do.
    ///
    /// A ledger that is opened for reading, or with
    /// [`Builder::migrate(false)`](crate::Builder::migrate), is used as it is.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// # procledger::Tracker::builder(&path).open()?.shutdown()?;
    /// assert!(!procledger::Ledger::migrate(&path)?, "a new ledger is up to date");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) if there is none at `path`; otherwise as for
    /// [`Builder::open`](crate::Builder::open).
    pub fn migrate(path: impl AsRef<Path>) -> Result<bool> {
        Self::migrate_trusting(path, None)
    }

    /// Migrates like [`migrate`](Self::migrate), with a trusted folder: see
    /// [`Builder::trust_folder`](crate::Builder::trust_folder).
    ///
    /// # Errors
    ///
    /// As for [`migrate`](Self::migrate).
    pub fn migrate_trusting(path: impl AsRef<Path>, trust_folder: Option<&Path>) -> Result<bool> {
        Store::migrate(path.as_ref(), trusted_or_by_environment(trust_folder).as_deref())
    }

    /// Returns the random UUID of the ledger, in 32 hex digits; `None` before it was migrated to
    /// schema 4. A copy has the same UUID.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn uuid(&self) -> Result<Option<String>> {
        self.store.uuid()
    }

    /// Adds names that [`plan_reap`](Self::plan_reap) protects, like
    /// [`Builder::protect`](crate::Builder::protect) for a real pass.
    #[must_use]
    pub fn protected_names<I: IntoIterator<Item = S>, S: Into<String>>(mut self, names: I) -> Self {
        self.protected.extend(names.into_iter().map(Into::into));
        self
    }

    /// Returns the canonical path of the ledger.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Returns every process that is not known to have ended, of all instances, the longest-running
    /// first: roots, and recorded descendants.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn processes(&self) -> Result<Vec<ProcessRecord>> {
        self.store.live()
    }

    /// Returns the [`processes`](Self::processes) that are roots.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn roots(&self) -> Result<Vec<ProcessRecord>> {
        let mut rows = self.store.live()?;
        rows.retain(|row| row.spec.root.is_none());
        Ok(rows)
    }

    /// Returns one process; `None` if the ledger has no such row.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{EndReason, Job};
    ///
    /// let mut process = tracker.spawn(Job::new("task-42", "true"))?;
    /// process.wait()?;
    /// let record = tracker.ledger().process(process.id())?.expect("recorded");
    /// assert_eq!(record.life.end().map(|end| end.reason), Some(EndReason::Exited));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn process(&self, id: ProcessId) -> Result<Option<ProcessRecord>> {
        self.store.process(id)
    }

    /// Returns ended processes, newest end first.
    ///
    /// # Errors
    ///
    /// Invalid input for an invalid task id; if the ledger cannot be read.
    pub fn history(&self, query: Query) -> Result<Vec<ProcessRecord>> {
        let task = query.task_id.map(TaskId::new).transpose()?;
        self.store.history(task.as_ref(), query.since.map(Millis::from), query.limit)
    }

    /// Returns leaks, newest first.
    ///
    /// # Errors
    ///
    /// Invalid input for an invalid task id; if the ledger cannot be read.
    pub fn leaks(&self, query: Query) -> Result<Vec<LeakRecord>> {
        let task = query.task_id.map(TaskId::new).transpose()?;
        self.store.leaks(task.as_ref(), query.since.map(Millis::from), query.limit)
    }

    /// Returns the number of leaks that were found since the given time, by hour, day, task, rule
    /// or program.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn leak_groups(
        &self,
        since: Option<SystemTime>,
        by: LeakGrouping,
    ) -> Result<Vec<LeakGroup>> {
        self.store.leak_groups(since.map(Millis::from), by)
    }

    /// Returns how many of the trees with leaks since the given time were contained only by their
    /// session.
    ///
    /// For these trees it cannot be verified that the list of leaks is complete: a process that
    /// left the session, cleared its environment and lost its parent before a pass recorded it is
    /// not in any list. With a task cgroup or a keeper there is no such uncertainty.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn unverified_trees(&self, since: Option<SystemTime>) -> Result<u64> {
        self.store.unverified_trees(since.map(Millis::from))
    }

    /// Returns a consistent report of one moment: the leaks counted by each key, the newest `limit`
    /// of them, and the passes that searched for leaks.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn leak_report(&self, since: Option<SystemTime>, limit: u32) -> Result<LeakReport> {
        self.store.leak_report(since.map(Millis::from), limit)
    }

    /// Returns how many passes of each kind were made since the given time, which shows whether
    /// leaks were searched for at all.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// # let tracker = procledger::Tracker::builder(&path).open()?;
    /// tracker.health_pass()?;
    /// let passes = tracker.ledger().pass_summaries(None)?;
    /// assert!(passes.iter().all(|summary| summary.passes > 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn pass_summaries(&self, since: Option<SystemTime>) -> Result<Vec<PassSummary>> {
        self.store.pass_summaries(since.map(Millis::from))
    }

    /// Returns the newest pass of each kind.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn last_passes(&self) -> Result<Vec<PassRecord>> {
        self.store.last_passes()
    }

    /// Returns the passes since the given time, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn passes(&self, since: Option<SystemTime>, limit: u32) -> Result<Vec<PassRecord>> {
        self.store.passes(since.map(Millis::from), limit)
    }

    /// Returns how many rows [`Tracker::prune`](crate::Tracker::prune) would delete at most; a few
    /// of them may have to be kept.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn prunable(&self, older_than: Duration) -> Result<u64> {
        self.store.count_before(Millis::now().minus(older_than))
    }

    /// Returns what an orphan pass would do now, with rule and evidence, without doing it.
    ///
    /// # Errors
    ///
    /// If the ledger or `/proc` cannot be read.
    pub fn plan_reap(&self, orphan_names: &[String], min_age: Duration) -> Result<Report> {
        let proc = Proc::open()?;
        let observer = Observer { scope: current_pid_scope()?, uid: self.store.owner_uid() };
        let own = own_pid()?;
        let Orphans { by_instance, foreign, unchecked } = self.orphans(&proc, observer)?;
        let mut report = Report { suspects: unchecked, ..Report::default() };
        let ancestors = proc.ancestors(own);
        let protected = &self.protected;
        let context = EndContext { proc: &proc, observer, own, ancestors, foreign, protected };
        let dead = by_instance.iter().map(|(dead, _)| dead.id).collect();
        let mut planned = Vec::new();
        for (dead, rows) in by_instance {
            let (trees, left) = self.plan_instance(&context, dead, rows)?;
            planned.extend(trees);
            report.endings.extend(left);
        }
        // Previewed together, as a real pass ends them, so that a process to which several of them
        // lead is in one tree.
        let targets = planned.iter().map(|tree| tree.target.clone()).collect();
        for (tree, seen) in planned.iter().zip(previews(&context, targets)?) {
            report.absorb(plan_tree(&self.store, tree, seen));
        }
        let accounted_for = accounted_for(&self.store, observer.scope, &dead)?;
        let search = Search {
            proc: &proc,
            observer,
            own,
            store: Some(&self.store),
            names: orphan_names,
            protected,
            min_age,
            accounted_for,
        };
        // A process that is ended as an orphan would be gone before the name match.
        let ended = report.endings.iter().map(|ending| ending.pid).collect();
        report.absorb(plan_matches(&context, &search, &ended)?);
        Ok(report)
    }

    /// Checks every instance.
    fn orphans(&self, proc: &Proc, observer: Observer) -> Result<Orphans> {
        let mut orphans = Orphans::default();
        let all = self.store.instances_to_check()?;
        let liveness = LivenessCheck::new(&self.store, proc, observer.scope);
        for instance in &all {
            let rows = self.store.live_of(instance.id)?;
            let life = liveness.of(instance, &all);
            if may_be_responsible(instance, &life, observer.scope) {
                let processes = rows.iter().map(ProcessRecord::pid).collect();
                orphans.foreign.push(Foreign { instance: instance.identity.pid, processes });
            }
            match life {
                Liveness::Dead(dead) => orphans.by_instance.push((dead, rows)),
                Liveness::Alive | Liveness::LockOutlives => {}
                Liveness::Unknown(why) => {
                    let why = format!("its instance {} cannot be judged: {why}", instance.program);
                    orphans.unchecked.extend(rows.into_iter().map(|row| Suspect {
                        pid: row.pid(),
                        task_id: row.spec.task_id,
                        command: row.spec.command,
                        why: why.clone(),
                    }));
                }
            }
        }
        Ok(orphans)
    }

    /// Returns the trees that an orphan pass would end, and what it would report without ending
    /// anything.
    fn plan_instance(
        &self,
        context: &EndContext<'_>,
        dead: DeadInstance,
        rows: Vec<ProcessRecord>,
    ) -> Result<(Vec<PlannedTree>, Vec<Ending>)> {
        let rows: Vec<ProcessRecord> =
            rows.into_iter().filter(|row| context.observer.may_touch(row.spec.uid)).collect();
        let (kept, rows): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| row.spec.limits.survive && dead.processes_gone.is_none());
        let survives = "it is marked survive: the next instance of its program adopts it";
        let kept = kept.iter().filter(|row| row.spec.root.is_none());
        let mut left: Vec<Ending> = kept.map(|row| planned(row, survives, Outcome::Kept)).collect();
        if dead.processes_gone.is_some() {
            let rule = RuleKey::PlaceGone.sentence();
            left.extend(rows.iter().map(|row| planned(row, rule, Outcome::Gone)));
            return Ok((Vec::new(), left));
        }
        let (roots, descendants): (Vec<_>, Vec<_>) =
            rows.iter().partition(|row| row.spec.root.is_none());
        let is_root = |id: Option<ProcessId>| roots.iter().any(|root| Some(root.id) == id);
        let alone = descendants.iter().filter(|row| !is_root(row.spec.root));
        let mut trees = Vec::new();
        for root in roots.iter().chain(alone) {
            let recorded = descendants
                .iter()
                .filter(|row| row.spec.root == Some(root.id))
                .map(|row| (Some(row.id), row.spec.identity))
                .collect();
            let of: Vec<ProcessId> =
                [Some(root.id), root.spec.root].into_iter().flatten().collect();
            let descendants = self.store.descendants(&of)?;
            let before = descendants.into_values().flat_map(|found| found.spared).collect();
            let exemptions = Exemptions { before, ..Exemptions::default() };
            let row: ProcessRecord = (**root).clone();
            let keeper = recorded_keeper(&self.store, context.proc, context.observer.scope, &row);
            let root = Root { keeper, ..Root::from(&row) };
            let target = TreeTarget { root, pidfd: None, recorded, exemptions };
            trees.push(PlannedTree { row, dead, target });
        }
        Ok((trees, left))
    }

    /// Returns the JSON export, as bytes.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub fn export_json(&self) -> Result<Vec<u8>> {
        Ok(export::to_json(&self.store.export_entries()?))
    }

    /// Replaces the file at `path` by the JSON export, atomically.
    ///
    /// # Errors
    ///
    /// Invalid input if `path` is the ledger or one of the files beside it; if the ledger cannot be
    /// read, or the file cannot be replaced.
    pub fn export_to(&self, path: impl AsRef<Path>) -> Result<()> {
        refuse_as_output(self.store.path(), path.as_ref(), "the export")?;
        export::write_once(path.as_ref(), &self.store.export_entries()?)
    }

    pub(in crate::tracker) fn store(&self) -> &Store {
        &self.store
    }
}

/// Returns what a name match would do now if there were no ledger, with rule and evidence, without
/// doing it. See [`Ledger::plan_reap`].
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// let names = ["no-such-program".to_owned()];
/// let plan = procledger::plan_name_match(&names, &[], procledger::DEFAULT_MIN_AGE)?;
/// assert!(plan.endings.is_empty());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn plan_name_match(
    orphan_names: &[String],
    protected: &[String],
    min_age: Duration,
) -> Result<Report> {
    let proc = Proc::open()?;
    let uid = rustix::process::geteuid().as_raw();
    let observer = Observer { scope: current_pid_scope()?, uid };
    let own = own_pid()?;
    let ancestors = proc.ancestors(own);
    let context =
        EndContext { proc: &proc, observer, own, ancestors, foreign: Vec::new(), protected };
    let search = Search {
        proc: &proc,
        observer,
        own,
        store: None,
        names: orphan_names,
        protected,
        min_age,
        accounted_for: HashSet::new(),
    };
    plan_matches(&context, &search, &HashSet::new())
}

fn own_pid() -> Result<Pid> {
    Pid::new(i64::from(std::process::id()))
        .ok_or_else(|| Error::invalid("pid 0 cannot read a ledger"))
}

fn planned(row: &ProcessRecord, rule: &str, outcome: Outcome) -> Ending {
    Ending {
        task_id: row.spec.task_id.clone(),
        pid: row.pid(),
        command: row.spec.command.clone(),
        rule: rule.into(),
        evidence: "identity".into(),
        outcome,
        stop_signal: None,
        died_after: None,
        obstacle: None,
    }
}

/// A tree that an orphan pass would end.
struct PlannedTree {
    /// The row of its root.
    row: ProcessRecord,
    dead: DeadInstance,
    target: TreeTarget,
}

fn plan_tree(store: &Store, tree: &PlannedTree, seen: Preview) -> Report {
    let PlannedTree { row: root, dead, .. } = tree;
    let mut report = Report { checked: seen.members.len() as u64, ..Report::default() };
    for member in seen.members {
        let (rule, outcome) = match &member.spared {
            _ if !member.alive => (RuleKey::Gone.into(), Outcome::Gone),
            Some(why) => (Rule::Spared(why.clone()), Outcome::Kept),
            None => (orphan_rule(dead.replaced).into(), Outcome::Term),
        };
        let info = member.info;
        let command =
            if info.command.is_empty() { root.spec.command.clone() } else { info.command };
        report.endings.push(Ending {
            task_id: root.spec.task_id.clone(),
            pid: info.identity.pid,
            command,
            rule: rule.to_string(),
            evidence: info.evidence.to_string(),
            outcome,
            stop_signal: None,
            died_after: None,
            obstacle: (root.life.state() == State::Survived)
                .then(|| root.last_error.clone())
                .flatten(),
        });
    }
    report.suspects.extend(suspects_of(store, root.spec.task_id.as_ref(), seen.suspects));
    report.suspects.extend(seen.unknown.into_iter().map(|error| Suspect {
        task_id: root.spec.task_id.clone(),
        pid: root.pid(),
        command: root.spec.command.clone(),
        why: error.to_string(),
    }));
    report
}

/// The processes that dead instances left, as found by [`Ledger::orphans`].
#[derive(Default)]
struct Orphans {
    by_instance: Vec<(DeadInstance, Vec<ProcessRecord>)>,
    /// Processes for which other instances are responsible.
    foreign: Vec<Foreign>,
    /// Processes of instances that cannot be judged.
    unchecked: Vec<Suspect>,
}

/// Plans what the name match would end, each match with its descendants, except for processes whose
/// end is already planned.
fn plan_matches(
    context: &EndContext<'_>,
    search: &Search<'_>,
    planned: &HashSet<Pid>,
) -> Result<Report> {
    let mut report = Report::default();
    for found in search.run()?.into_iter().filter(|found| !planned.contains(&found.pid)) {
        let Judgement::Leak(named) = &found.judgement else {
            report.absorb(leave(found));
            continue;
        };
        let Some(root) = search.tree(&found)? else { continue };
        let tree = TreeTarget {
            root,
            pidfd: None,
            recorded: Vec::new(),
            exemptions: Exemptions::default(),
        };
        let seen = previews(context, vec![tree])?.into_iter().flat_map(|seen| seen.members);
        for member in seen.filter(|member| !planned.contains(&member.info.identity.pid)) {
            report.checked += 1;
            let outcome = if member.spared.is_some() { Outcome::Kept } else { Outcome::Term };
            report.endings.push(Ending {
                task_id: None,
                pid: member.info.identity.pid,
                command: member.info.command,
                rule: member.spared.map_or_else(|| named.to_string(), |why| why.to_string()),
                evidence: member.info.evidence.to_string(),
                outcome,
                stop_signal: None,
                died_after: None,
                obstacle: None,
            });
        }
    }
    Ok(report)
}
