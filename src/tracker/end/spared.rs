//! Processes that are left running on purpose: each is recorded as a leak with the outcome `kept`, and its row is ended as
//! `released`.
//!
//! No instance is responsible for such a process any more, so no later pass ends it as an orphan, whatever its root's row says.
//! A process that was left once is left for good: a later attempt on the same tree, by any instance and with any set of names,
//! reads these rows first.

use super::run::Leave;
use crate::{
    error::{Error, Result},
    identity::Identity,
    model::{
        Because, End, EndReason, ExitStatus, InstanceId, LeakKind, Millis, NewLeak, NewProcess,
        Outcome, ProcessId, ProcessRecord, Settled, Verdict, state::State, task_text,
    },
    policy::protection::SpareReason,
    tracker::{
        builder::Builder,
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::tracked::{Entry, Root},
    },
};

/// Returns what to write for a member that is left running. `row`: its own, where it has one.
pub(in crate::tracker) fn kept(
    by: InstanceId,
    root: &Root,
    kind: LeakKind,
    (row, info): (Option<ProcessId>, &ProcessInfo),
    why: &SpareReason,
) -> Settled {
    tracing::info!(
        "process {} of task {} is left running: {why}",
        info.identity.pid,
        task_text(root.task.as_ref()),
    );
    let now = Millis::now();
    let new = row
        .is_none()
        .then(|| Box::new(NewProcess { state: State::Running, ..info.new_row(by, root) }));
    let evidence = info.evidence.to_string();
    let end = End {
        reason: EndReason::Released,
        status: ExitStatus::Unobserved,
        at: now,
        error: None,
        because: Some(Because { rule: why.to_string(), evidence: evidence.clone() }),
    };
    Settled {
        process: row.unwrap_or(ProcessId::UNRECORDED),
        verdict: Verdict::Kept(new, end),
        leak: Some(NewLeak {
            kind,
            rule: why.to_string(),
            evidence,
            found_at: now,
            age: info.age,
            rss: Some(info.rss),
            outcome: Outcome::Kept,
            died_after: None,
        }),
    }
}

impl Builder {
    /// Protects programs of this name: they and their descendants are left running in every tree that this instance ends.
    ///
    /// Meant for a program that outlives the task that happened to start it: a build server, a `tmux`. The protection applies
    /// in every case: a root that ended by itself, a tree that is terminated, a shutdown, the orphans of a dead instance, the
    /// name sweep.
    ///
    /// The name is compared with the base name of the executable, of `argv[0]`, and of the script where `argv[0]` is an
    /// interpreter; never with text in a command line. A task's own root is never protected, nor is a process that it has
    /// forked and that still runs the same program: a request to end a task is honored, whatever its program is called. A
    /// program that has just been forked has the name of its parent until it calls exec, and is not protected before.
    ///
    /// What is left running is recorded, with the rule and the evidence: a leak with the outcome `kept`, and a row that ended
    /// as `released`. From then on no instance is responsible for it, and no later pass ends it.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// let tracker = procledger::Tracker::builder(path).protect("tmux").protect("sccache").open()?;
    /// # Ok(()) }
    /// ```
    pub fn protect(mut self, name: impl Into<String>) -> Self {
        self.options.protected.push(name.into());
        self
    }

    /// Adds each of these names, as [`protect`](Self::protect) does.
    pub fn protected_names<I: IntoIterator<Item = S>, S: Into<String>>(mut self, names: I) -> Self {
        self.options.protected.extend(names.into_iter().map(Into::into));
        self
    }
}

/// Checks that each name is a file name, since programs are matched by the last component of a path.
pub(in crate::tracker) fn check_names(what: &str, names: &[String]) -> Result<()> {
    match names.iter().find(|name| name.is_empty() || name.contains('/')) {
        Some(name) => Err(Error::invalid(format!(
            "the {what} name {name:?} is not a file name: give one without folders"
        ))),
        None => Ok(()),
    }
}

impl Core {
    /// Returns the exemptions of the trees of recorded roots, or of descendants without a live root, in the order of `records`.
    pub(in crate::tracker) fn leaves_of(&self, records: &[ProcessRecord]) -> Result<Vec<Leave>> {
        let rows = |record: &ProcessRecord| [Some(record.id), record.root].into_iter().flatten();
        let targets: Vec<ProcessId> = records.iter().flat_map(rows).collect();
        let mut below = self.store.below(&targets)?.into_iter();
        let leave = |record: &ProcessRecord| {
            let names = self.entry(record.id).map(|entry| entry.strays.protected.clone());
            let before = below.by_ref().take(rows(record).count());
            let before = before.flat_map(|below| below.kept).collect();
            Leave { all: false, names: names.unwrap_or_default(), before }
        };
        Ok(records.iter().map(leave).collect())
    }
}

/// Returns the exemptions of a root of this instance; `kept` is what the ledger has below it.
pub(in crate::tracker) fn leave_of(entry: &Entry, kept: Vec<Identity>) -> Leave {
    Leave { all: false, names: entry.strays.protected.clone(), before: kept }
}
