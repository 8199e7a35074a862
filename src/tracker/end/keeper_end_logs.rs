//! Records the processes that keepers ended after the deaths of their hosts.
//!
//! A keeper leaves a record beside the ledger ([`EndLog`]). The instance that settles the root's
//! row reads it, in these steps:
//!
//! 1. It waits for the keeper, so that the tree is gone before a new process is started (invariant
//!    8), and the record is complete.
//! 2. Members that have no row get one, claimed like the root's. A crash from here on leaves rows
//!    of a dead claimant, which the next instance takes over, and the record, in which that
//!    instance finds the same members again.
//! 3. The tree is ended like any other, which verifies that each member is gone, and ends those
//!    that are not.
//! 4. The outcome for each member is settled according to the record, in one transaction with the
//!    root's row.
//! 5. The record is removed. If the root's row has ended, the record is no longer read, and a later
//!    pass removes it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

use super::{
    outcome,
    run::{Fate as MemberFate, MemberOutcome, TreeOutcome},
};
use crate::{
    error::Result,
    model::{
        Containment, End, ExitStatus, Justification, LeakKind, Millis, NewLeak, NewProcess,
        Outcome, ProcessId, ProcessRecord, Row, Rule, RuleKey, Settled, Verdict,
    },
    sys::{Pinned, Signal},
    tracker::{
        core::Core,
        membership::{
            process_info::ProcessInfo,
            recorded_keeper::{self, verified},
        },
        runtime::{
            cause::Cause,
            keeper_end_log::{
                EndLog, Fate, Logged, end_log_path, read_end_log, remove_end_log, token_of_end_log,
            },
            liveness::Liveness,
            other_instances,
            tracked::Root,
        },
    },
};

/// Time limit for a keeper, besides the grace or [`GRACE_CAP`]: some seconds on a busy machine.
const KEEPER_LIMIT: Duration = Duration::from_secs(10);
/// How long the grace is restarted while members keep dying.
const GRACE_CAP: Duration = Duration::from_secs(2);
/// Time limit for the exit of a keeper below which no process is left; it takes a millisecond.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// Age from which on no instance needs a record: a live host reads that of its keeper within
/// seconds.
const STALE: Duration = Duration::from_mins(1);

/// The records of the keepers of some roots.
#[derive(Debug, Default)]
pub(in crate::tracker) struct EndLogs {
    by_row: HashMap<ProcessId, Arc<EndLog>>,
    /// Errors for records that could not be read or used.
    pub(super) errors: Vec<String>,
}

/// The keepers of rows whose hosts are dead.
#[derive(Debug, Default)]
pub(in crate::tracker) struct OrphanedKeepers(Vec<Pinned>);

/// Waits, for a limited time, until the keepers of claimed rows, whose hosts are dead, have ended
/// their trees.
pub(in crate::tracker) fn await_keepers(core: &Core, claimed: &[ProcessRecord]) -> OrphanedKeepers {
    let mut keepers = Vec::new();
    let mut limit = Duration::ZERO;
    for row in claimed {
        let keeper = recorded_keeper::keeper_of_row(core, row);
        let keeper =
            keeper.and_then(|it| verified(&core.proc, core.instance.observer, &it, row.spec.uid));
        if let Some(keeper) = keeper {
            // A keeper that was stopped continues.
            let _ = keeper.signal(Signal::CONT);
            limit = limit.max(row.spec.asking_time().max(GRACE_CAP) + KEEPER_LIMIT);
            keepers.push(keeper);
        }
    }
    let deadline = Instant::now() + limit;
    keepers.retain(|keeper| {
        let left = deadline.saturating_duration_since(Instant::now());
        !keeper.fd().wait_dead(left).unwrap_or(false)
    });
    OrphanedKeepers(keepers)
}

/// Kills keepers that have not exited in time, once no process is left below them.
pub(in crate::tracker) fn end_keepers(core: &Core, keepers: OrphanedKeepers) {
    for keeper in keepers.0 {
        let is_alone = core.proc.has_other_children(keeper.pid(), |_| false) == Some(false);
        if is_alone && !keeper.fd().wait_dead(EXIT_LIMIT).unwrap_or(false) {
            tracing::warn!("keeper {} does not exit, killing it", keeper.pid());
            let _ = keeper.signal(Signal::KILL);
        }
    }
}

/// Reads the records that the keepers of claimed roots have left, and claims the members that have
/// no row yet.
pub(in crate::tracker) fn take_end_logs(core: &Core, claimed: &mut Vec<ProcessRecord>) -> EndLogs {
    let mut logs = EndLogs::default();
    let (roots, errors) = kept_roots_of(core, claimed);
    logs.errors = errors;
    for root in roots {
        let Some(token) = root.spec.token else { continue };
        match end_log_of(core, &root, token) {
            Ok(Some(log)) => {
                match claim_logged(core, &root, &log, claimed) {
                    Ok(new) => claimed.extend(new),
                    Err(error) => logs.errors.push(error.to_string()),
                }
                let log = Arc::new(log);
                // A descendant is alone if its root's row has already ended.
                let below = claimed.iter().filter(|row| row.spec.root == Some(root.id));
                let rows = below.map(|row| row.id).chain([root.id]);
                logs.by_row.extend(rows.map(|row| (row, Arc::clone(&log))));
                core.keepers.note_read(token);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!("{error}");
                logs.errors.push(error.to_string());
            }
        }
    }
    logs
}

/// Returns the roots with a keeper to which the claimed rows belong, and the errors of those that
/// cannot be looked up.
fn kept_roots_of(core: &Core, claimed: &[ProcessRecord]) -> (Vec<ProcessRecord>, Vec<String>) {
    let mut errors = Vec::new();
    let mut roots: Vec<ProcessRecord> =
        claimed.iter().filter(|row| is_kept(row)).cloned().collect();
    let mut seen: HashSet<ProcessId> = claimed.iter().map(|row| row.id).collect();
    for root in claimed.iter().filter_map(|row| row.spec.root) {
        if seen.insert(root) {
            match core.store.process(root) {
                Ok(root) => roots.extend(root.filter(is_kept)),
                Err(error) => errors.push(error.to_string()),
            }
        }
    }
    (roots, errors)
}

/// Returns the record of a root's keeper, unless the keeper is alive, so that the record is not
/// complete yet.
fn end_log_of(core: &Core, row: &ProcessRecord, token: Uuid) -> Result<Option<EndLog>> {
    let keeper = recorded_keeper::keeper_of_row(core, row);
    if keeper
        .is_some_and(|it| verified(&core.proc, core.instance.observer, &it, row.spec.uid).is_some())
    {
        return Ok(None);
    }
    let path = end_log_path(core.store.path(), token);
    read_end_log(&path, core.instance.observer.uid, token, row.spec.identity.scope)
}

/// Creates claimed rows for the members of a record that have none.
fn claim_logged(
    core: &Core,
    root: &ProcessRecord,
    log: &EndLog,
    claimed: &[ProcessRecord],
) -> Result<Vec<ProcessRecord>> {
    let root_of = Root { arguments: true, ..Root::from(root) };
    let is_new = |member: &&Logged| {
        let known = claimed.iter().any(|row| row.spec.identity == member.info.identity);
        let gone = member.fate.is_some_and(|fate| fate.outcome == Outcome::Gone);
        !known && !gone && core.instance.observer.may_touch(member.info.uid)
    };
    let new = log.members.iter().filter(is_new);
    let new: Vec<_> = new.map(|it| ((), logged_row(core, &root_of, log, &it.info))).collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    core.store.insert_found(new).and_then(|all| {
        let rows = all.into_iter().map(|((), row)| core.store.process(row));
        rows.filter_map(Result::transpose).collect()
    })
}

fn logged_row(core: &Core, root: &Root, log: &EndLog, member: &ProcessInfo) -> NewProcess {
    let mut new = member.new_row(core.instance.id, root);
    new.spec.started_at = log.began.minus(member.age).into();
    new
}

/// Returns whether the keeper of a row, whose host is dead, is still running, or has left a record
/// that has not been read yet.
pub(in crate::tracker) fn has_end_log(core: &Core, row: &ProcessRecord) -> bool {
    let Some(token) = row.spec.token.filter(|_| is_kept(row)) else { return false };
    let keeper = recorded_keeper::keeper_of_row(core, row);
    keeper
        .is_some_and(|it| verified(&core.proc, core.instance.observer, &it, row.spec.uid).is_some())
        || end_log_path(core.store.path(), token).symlink_metadata().is_ok()
}

/// Removes the records of roots whose rows are settled, and records to which no row belongs;
/// `names` are those of the files beside the ledger.
pub(in crate::tracker) fn remove_end_logs(core: &Core, names: &[String]) {
    let ledger = core.store.path();
    for name in names {
        let Some(token) = token_of_end_log(ledger, name) else { continue };
        // The record of a live row is read when that row is settled.
        if !matches!(core.store.knows_token(&token), Ok(false)) {
            continue;
        }
        let is_read = core.keepers.take_read(&token);
        let path = ledger.with_file_name(name);
        let modified = path.symlink_metadata().and_then(|seen| seen.modified());
        let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if is_read || age.is_ok_and(|age| age > STALE) || !has_live_others(core) {
            remove_end_log(&path);
        }
    }
}

/// Returns whether another instance may be alive, which could be about to read the record of one of
/// its keepers.
fn has_live_others(core: &Core) -> bool {
    let lives = |life: &Liveness| !matches!(life, Liveness::Dead(_));
    other_instances::check_others(&core.store, &core.proc, &core.instance)
        .map_or(true, |others| others.iter().any(|(_, life)| lives(life)))
}

/// Records the processes that a keeper ended when this host dismissed it.
pub(in crate::tracker) fn record_ended_by_keeper(core: &Core, root: &Root) {
    let Some(token) = root.token else { return };
    let path = end_log_path(core.store.path(), token);
    let log = match read_end_log(&path, core.instance.observer.uid, token, root.identity.scope) {
        Ok(Some(log)) => log,
        Ok(None) => return,
        Err(error) => return tracing::error!("{error}"),
    };
    let cause = Cause::stray();
    let settled: Vec<Settled> = (log.members.iter())
        .filter_map(|member| {
            let fate = member.fate.filter(|fate| fate.outcome != Outcome::Gone)?;
            if fate.outcome == Outcome::Survived || member.info.identity == root.identity {
                return None;
            }
            let rule = Rule::from(RuleKey::KeeperEndedStray);
            let at = ended_at(&log, &fate);
            let because = Justification::new(&rule, member.info.evidence);
            let end = End {
                reason: cause.reason,
                status: fate.status,
                core_dumped: false,
                at: at.into(),
                because: Some(because.clone()),
            };
            let leak = NewLeak {
                kind: LeakKind::Stray,
                because,
                found_at: at,
                age: member.info.age,
                rss: Some(member.info.rss),
                outcome: fate.outcome,
                died_after: fate.died_after,
                stop_signal: fate.stop_signal,
            };
            let new = Box::new(logged_row(core, root, &log, &member.info));
            Some(Settled { row: Row::New(new), verdict: Verdict::Ended(end), leak: Some(leak) })
        })
        .collect();
    // An error is logged.
    let _ = outcome::write(core, None, settled);
    // Ends that could not be written wait in memory.
    remove_end_log(&path);
}

impl EndLogs {
    /// Merges the keepers' records into the results for their trees: a member that was already gone
    /// here, and that a keeper's record has as ended, was ended by the keeper.
    pub(in crate::tracker) fn complete(&self, ends: &mut [TreeOutcome]) {
        for end in ends {
            let Some(log) = self.by_row.get(&end.root.row) else { continue };
            for member in end.members.iter_mut().filter(|it| it.fate == MemberFate::Gone) {
                complete(log, member);
            }
        }
    }
}

fn complete(log: &EndLog, member: &mut MemberOutcome) {
    if member.is_root && log.root_status.is_some() {
        member.status = known(member.status, log.root_status);
    }
    let Some(logged) = log.member(&member.info.identity) else { return };
    let command = std::mem::take(&mut member.info.command);
    member.info = logged.info.clone();
    if !command.is_empty() {
        member.info.command = command;
    }
    let Some(fate) = logged.fate else {
        member.at = Some(log.began);
        member.rule = Some(RuleKey::KeeperKilled);
        return;
    };
    member.status = known(member.status, Some(fate.status));
    member.at = Some(ended_at(log, &fate));
    member.stop_signal = fate.stop_signal;
    let rule = match fate.outcome {
        // It had ended before the keeper signalled it.
        Outcome::Gone => return,
        Outcome::Survived | Outcome::Kept => RuleKey::KeeperFailed,
        Outcome::Term => {
            member.fate = MemberFate::Terminated(fate.died_after);
            RuleKey::KeeperEnded
        }
        Outcome::Kill => {
            member.fate = MemberFate::Killed(fate.died_after);
            RuleKey::KeeperEnded
        }
    };
    member.rule = Some(rule);
}

fn known(status: ExitStatus, other: Option<ExitStatus>) -> ExitStatus {
    match status {
        ExitStatus::Unobserved => other.unwrap_or(status),
        known => known,
    }
}

fn ended_at(log: &EndLog, fate: &Fate) -> Millis {
    let took = fate.died_after.unwrap_or_default();
    Millis(log.began.0.saturating_add(crate::model::millis(took)))
}

/// Returns whether a row is that of a program under a keeper.
fn is_kept(row: &ProcessRecord) -> bool {
    row.spec.root.is_none() && row.spec.containment == Containment::Keeper
}
