//! Rows of instances that ran in a tree and ended with it, such as a `procledger run` within a
//! task.
//!
//! A process below such an instance has two rows: one in the tree that is ended here, and one of
//! its own instance, which would have recorded its end. An instance that was killed does not, and
//! nothing else would until the ledger is opened again. Only rows of processes that ended here are
//! settled, and only those of dead instances: nothing is signalled.

use std::collections::HashMap;

use crate::{
    error::Result,
    identity::{Identity, Pid, Sameness},
    model::{
        End, EndReason, InstanceId, ProcessId, ProcessRecord, Rule, RuleKey, Settled, Verdict,
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

/// Claims the rows that dead instances have of these processes, and returns what to write.
pub(in crate::tracker) fn settle_rows(core: &Core, ended: &[Ended]) -> Vec<Settled> {
    if ended.is_empty() {
        return Vec::new();
    }
    try_settle_rows(core, ended).unwrap_or_else(|error| {
        // Their instances are dead, so the next orphan pass finds them.
        tracing::warn!(
            "failed to settle what instances that ended with a tree have recorded: {error}"
        );
        Vec::new()
    })
}

fn try_settle_rows(core: &Core, ended: &[Ended]) -> Result<Vec<Settled>> {
    let own = core.instance.id;
    let pids: Vec<Pid> = ended.iter().map(|ended| ended.identity.pid).collect();
    let mut ends: HashMap<InstanceId, Vec<(ProcessId, &Ended)>> = HashMap::new();
    for row in core.store.live_of_others(own, &pids)? {
        // The rows of the trees that were ended are claimed.
        if row.life.claimed_by() != Some(own)
            && let Some(ended) = ended.iter().find(|ended| is_of(&row, ended))
        {
            ends.entry(row.owner).or_default().push((row.id, ended));
        }
    }
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let instances = core.store.instances_to_check()?;
    let liveness = LivenessCheck::new(&core.store, &core.proc, core.pid_scope());
    let mut settled = Vec::new();
    for instance in &instances {
        let Some(ends) = ends.get(&instance.id) else { continue };
        if !matches!(liveness.of(instance, &instances), Liveness::Dead(_)) {
            continue;
        }
        for (row, ended) in ends {
            let over = TakeOver { dead: &[instance.id], live: false };
            let (owner, requested_by) = (Some(instance.id), ended.requested_by.as_deref());
            let claimed = core.store.claim_over(&[*row], own, owner, requested_by, over)?;
            let verdict = || Verdict::Ended(ended.end.clone());
            settled.extend(claimed.iter().map(|(row, _)| Settled::new(row.id, verdict())));
        }
    }
    Ok(settled)
}

fn is_of(row: &ProcessRecord, ended: &Ended) -> bool {
    row.spec.identity.sameness(&ended.identity) == Sameness::Same
}
