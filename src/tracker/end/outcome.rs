//! Turns the outcomes of trees into rows, leaks and a report.

use std::{collections::HashMap, time::Instant};

use super::{
    adopted_zombies, exit_statuses,
    nested_instances::{self, Ended},
    run::{Fate, LeftRunning, MemberOutcome, Suspected, TreeOutcome},
    spared::settle_spared,
};
use crate::{
    error::Result,
    identity::Identity,
    model::Evidence,
    model::{
        End, EndReason, Ending, ExitStatus, Justification, LeakKind, Millis, NewLeak, Outcome,
        PassRecord, ProcessId, ProcessRecord, Report, Rule, Settled, Suspect, TaskId, Verdict,
        task_text,
    },
    policy::suspects::LISTED,
    store::Store,
    sys::Death,
    tracker::{
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::{cause::Cause, tracked::Root},
    },
};

/// Records members that an end has found, before they are signalled. If the ledger cannot be
/// written, they are ended regardless, and have no row.
pub(in crate::tracker) fn record_found(
    core: &Core,
    root: &Root,
    found: &[&ProcessInfo],
) -> HashMap<Identity, ProcessId> {
    let new = found.iter().map(|it| (it.identity, it.new_row(core.instance.id, root))).collect();
    match core.store.insert_found(new) {
        Ok(rows) => rows.into_iter().collect(),
        Err(error) => {
            tracing::error!(
                "failed to record {} processes before they are ended: {error}",
                found.len()
            );
            HashMap::new()
        }
    }
}

/// The outcomes of trees: the results to write, and the report.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Conclusion {
    pub(in crate::tracker) settled: Vec<Settled>,
    pub(in crate::tracker) report: Report,
    /// The members that have ended, for the rows that nested instances have of them.
    pub(in crate::tracker) ended: Vec<Ended>,
}

impl Conclusion {
    /// Returns the conclusion of an attempt that failed, so that nothing was ended.
    pub(in crate::tracker) fn failed(error: &crate::error::Error) -> Self {
        Self {
            report: Report { errors: vec![error.to_string()], ..Report::default() },
            ..Self::default()
        }
    }

    pub(in crate::tracker) fn absorb(&mut self, other: Self) {
        self.settled.extend(other.settled);
        self.report.absorb(other.report);
        self.ended.extend(other.ended);
    }
}

/// Concludes the outcomes of trees that were ended for the same cause.
pub(in crate::tracker) fn conclude(
    core: &Core,
    cause: &Cause,
    ends: Vec<TreeOutcome>,
) -> Conclusion {
    conclude_each(core, &|_| cause.clone(), ends)
}

/// Does the same, with a cause for the tree of each root's row.
pub(in crate::tracker) fn conclude_each(
    core: &Core,
    cause_of: &dyn Fn(ProcessId) -> Cause,
    ends: Vec<TreeOutcome>,
) -> Conclusion {
    let mut all = Conclusion::default();
    let began = Instant::now();
    for end in ends {
        all.absorb(conclude_tree(core, &cause_of(end.root.row), end, began));
    }
    let ended = std::mem::take(&mut all.ended);
    all.settled.extend(nested_instances::settle_rows(core, &ended));
    all
}

/// Writes the results of claimed rows, with the pass that handled them.
///
/// # Errors
///
/// If they cannot be written now. This is logged, and retried.
pub(in crate::tracker) fn write(
    core: &Core,
    pass: Option<PassRecord>,
    settled: Vec<Settled>,
) -> Result<()> {
    let written = record_outcome(core, pass, settled);
    adopted_zombies::reap_ended(core);
    written
}

fn record_outcome(core: &Core, pass: Option<PassRecord>, settled: Vec<Settled>) -> Result<()> {
    if settled.is_empty() && pass.is_none() {
        return Ok(());
    }
    let written = core.store.record(core.instance.id, pass.as_ref(), &settled).map(|_| ());
    if let Err(error) = &written {
        tracing::error!(
            "failed to record the outcomes of {} processes: {error}; will be retried",
            settled.len()
        );
        if let Some(pass) = pass {
            core.counters().pass_failed(pass.kind);
        }
        core.pending.settled.extend(settled);
    }
    core.export.notify();
    written
}

/// Concludes the outcome of one tree.
pub(in crate::tracker) fn conclude_tree(
    core: &Core,
    cause: &Cause,
    tree: TreeOutcome,
    began: Instant,
) -> Conclusion {
    let TreeOutcome { root, members, suspects, unknown, unseen, mut outlived, interrupted } = tree;
    let Conclusion { mut settled, mut report, mut ended } = Conclusion::default();
    for mut member in members {
        report.checked += 1;
        if interrupted && let Fate::Survived { why, .. } = &mut member.fate {
            *why = "the attempt was interrupted during its grace period".into();
            settled.extend(member.row.map(|row| Settled::new(row, Verdict::Interrupted)));
            report.endings.push(ending(&cause.rule, &root, member));
            continue;
        }
        if let Fate::Spared(why) = &member.fate {
            let kind = cause.leak.unwrap_or(LeakKind::Stray);
            let found = (member.row, &member.info);
            settled.push(settle_spared(core.instance.id, &root, kind, found, why));
            report.endings.push(ending(&Rule::Spared(why.clone()), &root, member));
            continue;
        }
        if member.is_root && !member.fate.has_survived() {
            if let Some(why) = outlived.take() {
                publish_root(core, cause, &root, &member, began);
                set_cause(core, cause, &root, &member);
                // A process in the cgroup that cannot be seen is a survivor, and only the root's
                // row leads to it.
                report.endings.push(left_in_task_cgroup(cause, &root, why.clone()));
                settled.extend(member.row.map(|row| Settled::new(row, Verdict::Survived(why))));
                continue;
            }
            if let Some(why) = &unseen {
                set_cause(core, cause, &root, &member);
                let why = format!("it has ended, but {why}; the next pass retries");
                report.suspects.push(root_as_suspect(&root, why.clone()));
                report.unverified += 1;
                settled.extend(member.row.map(|row| Settled::new(row, Verdict::Unknown(why))));
                continue;
            }
        }
        adopted_zombies::reap_after_record(core, &root, &member);
        if member.is_root {
            publish_root(core, cause, &root, &member, began);
        }
        let death = death_of(core, &root, &member);
        let one = member.row.map(|row| settle(cause, row, &member, death));
        ended.extend(one.as_ref().and_then(|one| Ended::of(member.info.identity, one, cause)));
        settled.extend(one);
        log_survivor(&root, &member);
        member.fate.died_after().into_iter().for_each(|after| core.counters().reaped(after));
        report.endings.push(ending(&rule_of(cause, &member), &root, member));
    }
    if let Some(why) = outlived {
        // The root survived as well, or its end is already in the ledger.
        report.endings.push(left_in_task_cgroup(cause, &root, why));
    }
    report.suspects.extend(suspects_of(&core.store, root.task.as_ref(), suspects));
    for LeftRunning { row, why: error, is_exempt, .. } in unknown {
        report.checked += 1;
        let why = if is_exempt {
            error.to_string()
        } else {
            report.unverified += 1;
            format!("{error}; close its row with `procledger forget` when you know that it is gone")
        };
        report.suspects.push(root_as_suspect(&root, why));
        settled.extend(row.map(|row| given_back(row, &error)));
    }
    Conclusion { settled, report, ended }
}

/// Reports a root that cannot be identified, or below which there may have been unknown processes.
fn root_as_suspect(root: &Root, why: String) -> Suspect {
    Suspect {
        task_id: root.task.clone(),
        pid: root.identity.pid,
        command: root.command.to_vec(),
        why,
    }
}

/// Remembers why a dead root ended. Its row stays until the rest of its tree is known to be gone.
fn set_cause(core: &Core, cause: &Cause, root: &Root, member: &MemberOutcome) {
    let Some(entry) = core.registry.get(root.row) else { return };
    let by_itself = member.fate == Fate::Gone;
    let reason = if by_itself { EndReason::Exited } else { cause.reason };
    entry.set_cause(Some((reason, because(cause, member))));
}

/// Reports the death of a root of ours to its waiters.
fn publish_root(core: &Core, cause: &Cause, root: &Root, member: &MemberOutcome, began: Instant) {
    let Some(entry) = core.registry.get(root.row) else { return };
    // A survivor that dies by the pending SIGKILL, perhaps hours later, has not ended by itself.
    let pending = matches!(member.fate, Fate::Survived { kill_pending: true, .. });
    entry.set_cause(pending.then(|| (cause.reason, because(cause, member))));
    if !member.fate.has_survived() {
        match entry.open_pidfd(&core.proc, core.pid_scope()) {
            Some(fd) => exit_statuses::learn_or_go_on(core, &entry, &fd, began),
            None => drop(entry.publish(member.status)),
        }
    }
}

fn death_of(core: &Core, root: &Root, member: &MemberOutcome) -> Death {
    let entry = core.registry.get(root.row).filter(|_| member.is_root);
    let known = entry.as_ref().and_then(|entry| entry.status());
    let dumped_core = member.core_dumped || entry.is_some_and(|entry| entry.has_dumped_core());
    Death { status: known.unwrap_or(member.status), dumped_core }
}

/// Gives the claim on a row back, since it could not be handled.
pub(in crate::tracker) fn given_back(row: ProcessId, error: &crate::error::Error) -> Settled {
    Settled::new(row, Verdict::Unknown(error.to_string()))
}

fn settle(cause: &Cause, row: ProcessId, member: &MemberOutcome, death: Death) -> Settled {
    let now = member.at.unwrap_or_else(Millis::now);
    let verdict = if let Fate::Survived { why, .. } = &member.fate {
        Verdict::Survived(why.clone())
    } else {
        Verdict::Ended(End {
            reason: reason(cause, member, death.status),
            status: death.status,
            core_dumped: death.dumped_core,
            at: now.into(),
            because: because(cause, member),
        })
    };
    // A process that was gone before the first scan is not a leak.
    let leak = cause.leak.filter(|_| was_ended(member)).map(|kind| NewLeak {
        kind,
        because: Justification::new(&rule_of(cause, member), member.info.evidence),
        found_at: now,
        age: member.info.age,
        rss: Some(member.info.rss),
        outcome: member.fate.outcome(),
        died_after: member.fate.died_after(),
        stop_signal: member.ended_by(),
    });
    Settled { row: row.into(), verdict, leak }
}

/// Returns why a member was ended; `None` for one that was already gone.
fn because(cause: &Cause, member: &MemberOutcome) -> Option<Justification> {
    was_ended(member).then(|| Justification::new(&rule_of(cause, member), member.info.evidence))
}

/// Returns whether a member was ended, by this call or by its keeper, and did not end by itself.
fn was_ended(member: &MemberOutcome) -> bool {
    member.fate != Fate::Gone || member.rule.is_some()
}

fn rule_of(cause: &Cause, member: &MemberOutcome) -> Rule {
    member.rule.map_or_else(|| cause.rule.clone(), Rule::from)
}

/// Returns the reason of an end. A process that was dead before the first signal exited by itself
/// if its status is known, and is gone otherwise.
fn reason(cause: &Cause, member: &MemberOutcome, status: ExitStatus) -> EndReason {
    match (&member.fate, status) {
        _ if member.rule.is_some() => cause.reason,
        (Fate::Gone, ExitStatus::Unobserved) => EndReason::Gone,
        (Fate::Gone, _) => EndReason::Exited,
        _ => cause.reason,
    }
}

fn ending(rule: &Rule, root: &Root, member: MemberOutcome) -> Ending {
    Ending {
        stop_signal: member.ended_by(),
        task_id: root.task.clone(),
        pid: member.info.identity.pid,
        rule: rule.to_string(),
        evidence: member.info.evidence.to_string(),
        command: member.info.command,
        outcome: member.fate.outcome(),
        died_after: member.fate.died_after(),
        obstacle: match member.fate {
            Fate::Survived { why, .. } => Some(why),
            _ => None,
        },
    }
}

/// Returns the reported processes that may belong to a task, without those that the ledger has in
/// another tree, and at most [`LISTED`] of them.
pub(in crate::tracker) fn suspects_of(
    store: &Store,
    task: Option<&TaskId>,
    mut found: Vec<Suspected>,
) -> Vec<Suspect> {
    if found.is_empty() {
        return Vec::new();
    }
    let rows = store.live().unwrap_or_default();
    found.retain(|suspect| {
        let is_it = |row: &ProcessRecord| {
            row.pid() == suspect.pid && row.spec.identity.start_tick == suspect.start_tick
        };
        !rows.iter().any(is_it)
    });
    let more = found.len().saturating_sub(LISTED);
    found.truncate(LISTED);
    let mut suspects: Vec<Suspect> = (found.into_iter())
        .map(|suspect| Suspect {
            task_id: task.cloned(),
            pid: suspect.pid,
            command: suspect.command,
            why: suspect.reason.to_string(),
        })
        .collect();
    if let Some(last) = suspects.last_mut().filter(|_| more > 0) {
        last.why = format!("{}; {more} more are not listed", last.why);
    }
    suspects
}

/// Reports, as an ending of the root, live processes in a task cgroup that cannot be seen.
fn left_in_task_cgroup(cause: &Cause, root: &Root, why: String) -> Ending {
    tracing::error!("task {} could not be ended: {why}", task_text(root.task.as_ref()));
    Ending {
        task_id: root.task.clone(),
        pid: root.identity.pid,
        command: root.command.to_vec(),
        rule: cause.rule.to_string(),
        evidence: Evidence::TaskCgroup.to_string(),
        outcome: Outcome::Survived,
        stop_signal: None,
        died_after: None,
        obstacle: Some(why),
    }
}

fn log_survivor(root: &Root, member: &MemberOutcome) {
    if let Fate::Survived { why, .. } = &member.fate {
        tracing::error!(
            "process {} for task {} could not be ended: {why}",
            member.info.identity.pid,
            task_text(root.task.as_ref()),
        );
    }
}
