//! Ends the trees of claimed rows.

use std::{collections::HashMap, sync::atomic::AtomicBool};

use super::{
    keeper_end_logs, outcome,
    run::{EndPlan, TreeTarget, end_trees_unless},
    spared, world,
};
use crate::{
    error::Result,
    model::{ProcessId, ProcessRecord, Report, Settled},
    tracker::{
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::{cause::Cause, tracked::Root},
    },
};

/// Ends the trees of claimed rows, and returns what to write.
pub(in crate::tracker) fn end_claimed(
    core: &Core,
    cause: &Cause,
    claimed: Vec<ProcessRecord>,
    report: &mut Report,
) -> Vec<Settled> {
    end_claimed_unless(core, &|_| cause.clone(), claimed, report, &EndPlan::default(), None)
}

/// The same, with a cause for the tree of each row.
pub(in crate::tracker) fn end_claimed_each(
    core: &Core,
    cause_of: &dyn Fn(ProcessId) -> Cause,
    claimed: Vec<ProcessRecord>,
    report: &mut Report,
) -> Vec<Settled> {
    end_claimed_unless(core, cause_of, claimed, report, &EndPlan::default(), None)
}

/// The same; gives the claims back once `interrupt` is set.
pub(in crate::tracker) fn end_claimed_unless(
    core: &Core,
    cause_of: &dyn Fn(ProcessId) -> Cause,
    mut claimed: Vec<ProcessRecord>,
    report: &mut Report,
    plan: &EndPlan,
    interrupt: Option<&AtomicBool>,
) -> Vec<Settled> {
    if claimed.is_empty() {
        return Vec::new();
    }
    for record in &claimed {
        if let Some(entry) = core.registry.get(record.id) {
            entry.set_ending(&cause_of(record.id));
        }
    }
    let logs = keeper_end_logs::take_end_logs(core, &mut claimed, report);
    let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
    let world = match world::world(core, &rows) {
        Ok(world) => world,
        Err(error) => {
            // Give the claims back, so that the next pass retries.
            let settled = rows.iter().map(|row| super::outcome::given_back(*row, &error));
            report.errors.push(error.to_string());
            return settled.collect();
        }
    };
    let trees = match group(core, claimed) {
        Ok(trees) => trees,
        Err(error) => {
            let settled = rows.iter().map(|row| super::outcome::given_back(*row, &error));
            report.errors.push(error.to_string());
            return settled.collect();
        }
    };
    let recorder =
        &mut |root: &Root, found: &[&ProcessInfo]| outcome::record_found(core, root, found);
    let mut ends = end_trees_unless(&world, trees, recorder, plan, interrupt);
    logs.complete(&mut ends);
    let outcome::Concluded { settled, report: found } =
        outcome::conclude_each(core, cause_of, ends);
    report.absorb(found);
    settled
}

/// Groups claimed rows into trees: descendants are grouped with their root; where the root has ended, each is a tree of its
/// own.
fn group(core: &Core, claimed: Vec<ProcessRecord>) -> Result<Vec<TreeTarget>> {
    let (roots, descendants): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|record| record.spec.root.is_none());
    let mut trees = trees_of_rows(core, &roots)?;
    let index: HashMap<ProcessId, usize> =
        trees.iter().enumerate().map(|(index, tree)| (tree.root.row, index)).collect();
    let mut alone = Vec::new();
    for record in descendants {
        match record.spec.root.and_then(|root| index.get(&root)) {
            Some(&index) => trees[index].recorded.push((Some(record.id), record.spec.identity)),
            None => alone.push(record),
        }
    }
    trees.extend(trees_of_rows(core, &alone)?);
    Ok(trees)
}

/// Returns trees for which only the rows are known.
pub(in crate::tracker) fn trees_of_rows(
    core: &Core,
    records: &[ProcessRecord],
) -> Result<Vec<TreeTarget>> {
    let mut exemptions = spared::exemptions_of_rows(core, records)?;
    let tree = |record: &ProcessRecord| TreeTarget {
        root: world::root_of(core, record),
        pidfd: core.registry.get(record.id).and_then(|entry| entry.pidfd.clone()),
        recorded: Vec::new(),
        exemptions: exemptions.remove(&record.id).unwrap_or_default(),
    };
    Ok(records.iter().map(tree).collect())
}
