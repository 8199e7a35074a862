//! Rows of instances that ran in a tree and ended with it, such as a `procledger run` within a
//! task.
//!
//! A process below such an instance has two rows: one in the tree that is ended here, and one of
//! its own instance, which would have recorded its end. An instance that was killed does not, and
//! nothing else would until the ledger is opened again. Only rows of processes that ended here are
//! settled, and only those of dead instances: nothing is signalled.

use std::collections::{HashMap, HashSet};

use crate::{
    error::{Error, Result},
    identity::{Identity, Pid, Sameness},
    model::{
        End, EndReason, InstanceId, InstanceRecord, ProcessId, ProcessRecord, Rule, RuleKey,
        Settled, Verdict,
    },
    store::TakeOver,
    tracker::{
        core::Core,
        runtime::{
            cause::Cause,
            liveness::{Liveness, LivenessCheck},
        },
    },
};

/// A process that ended in a tree.
#[derive(Debug)]
pub(in crate::tracker) struct Ended {
    identity: Identity,
    end: End,
    /// The person who requested the end.
    requested_by: Option<String>,
}

impl Ended {
    /// Returns `None` for a process that has not ended.
    pub(super) fn of(identity: Identity, settled: &Settled, cause: &Cause) -> Option<Self> {
        let Verdict::Ended(end) = &settled.verdict else { return None };
        let mut end = end.clone();
        let requested_by = match (&cause.rule, &mut end.because) {
            (Rule::PersonAsked(person), _) => Some(person.clone()),
            // Neither the limit of the tree nor the death of its root is one of the nested
            // instance's own task.
            (_, Some(because)) => {
                let rule = Rule::from(RuleKey::InstanceDead);
                (because.rule, because.rule_key) = (rule.to_string(), rule.key());
                end.reason = EndReason::Orphan;
                None
            }
            (_, None) => None,
        };
        Some(Self { identity, end, requested_by })
    }
}

/// Claims the rows that dead instances have of these processes, and returns what to write. The next
/// orphan pass finds rows that cannot be claimed now.
pub(in crate::tracker) fn settle_rows(core: &Core, ended: &[Ended]) -> Vec<Settled> {
    if ended.is_empty() {
        return Vec::new();
    }
    let mut settled = Vec::new();
    match rows_of_the_dead(core, ended) {
        Ok(all) => {
            for ((owner, requested_by), ends) in all {
                match claim(core, owner, requested_by, &ends) {
                    Ok(claimed) => settled.extend(claimed),
                    Err(error) => warn(&error),
                }
            }
        }
        Err(error) => warn(&error),
    }
    settled
}

fn warn(error: &Error) {
    tracing::warn!("failed to settle what instances that ended with a tree have recorded: {error}");
}

/// Rows, by their owner and by the person who requested their end.
type Rows<'a> = HashMap<(InstanceId, Option<&'a str>), HashMap<ProcessId, &'a Ended>>;

/// Returns the rows that dead instances have of these processes.
fn rows_of_the_dead<'a>(core: &Core, ended: &'a [Ended]) -> Result<Rows<'a>> {
    let own = core.instance.id;
    let pids: Vec<Pid> = ended.iter().map(|ended| ended.identity.pid).collect();
    let mut rows = Rows::new();
    for row in core.store.live_of_others(own, &pids)? {
        // The rows of the trees that were ended are claimed.
        if row.life.claimed_by() != Some(own)
            && let Some(ended) = ended.iter().find(|ended| is_of(&row, ended))
        {
            let group = (row.owner, ended.requested_by.as_deref());
            rows.entry(group).or_default().insert(row.id, ended);
        }
    }
    if rows.is_empty() {
        return Ok(rows);
    }
    let instances = core.store.instances_to_check()?;
    let liveness = LivenessCheck::new(&core.store, &core.proc, core.pid_scope());
    let is_dead =
        |instance: &&InstanceRecord| matches!(liveness.of(instance, &instances), Liveness::Dead(_));
    let owners: HashSet<InstanceId> = rows.keys().map(|(owner, _)| *owner).collect();
    let dead: HashSet<InstanceId> = (instances.iter())
        .filter(|instance| owners.contains(&instance.id))
        .filter(is_dead)
        .map(|instance| instance.id)
        .collect();
    rows.retain(|(owner, _), _| dead.contains(owner));
    Ok(rows)
}

/// Claims rows of a dead owner in one transaction; returns their ends, without those of rows that a
/// live instance is ending.
fn claim(
    core: &Core,
    owner: InstanceId,
    requested_by: Option<&str>,
    ends: &HashMap<ProcessId, &Ended>,
) -> Result<Vec<Settled>> {
    let rows: Vec<ProcessId> = ends.keys().copied().collect();
    let over = TakeOver { dead: &[owner], live: false };
    let claimed =
        core.store.claim_over(&rows, core.instance.id, Some(owner), requested_by, over)?;
    let settled =
        |row: ProcessId| Some(Settled::new(row, Verdict::Ended(ends.get(&row)?.end.clone())));
    Ok(claimed.into_iter().filter_map(|(row, _)| settled(row.id)).collect())
}

fn is_of(row: &ProcessRecord, ended: &Ended) -> bool {
    row.spec.identity.sameness(&ended.identity) == Sameness::Same
}
