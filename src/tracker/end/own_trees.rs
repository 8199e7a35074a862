//! Claims and ends trees of this instance, whether or not the ledger can be written (invariant 10).

use std::{collections::HashSet, sync::Arc};

use super::{
    adopted_zombies, context, flush, foreign_claims, outcome, release,
    run::{EndContext, TreeTarget, end_trees},
    spared::exemptions_of,
    strays,
};
use crate::{
    error::Result,
    model::{EndPlan, ProcessId, Report},
    store::{RecordedDescendants, TakeOver},
    tracker::{
        core::Core,
        runtime::{cause::Cause, tracked::Tracked},
    },
};

/// Ends the trees that can be claimed, each reserved by [`Tracked::begin`]; returns those that
/// other instances are ending, and the outcomes of the others.
pub(in crate::tracker) fn end_free(
    core: &Core,
    cause: &Cause,
    mine: &[&Arc<Tracked>],
    over: TakeOver<'_>,
    plan: &EndPlan,
) -> (Vec<Arc<Tracked>>, Report) {
    if mine.is_empty() {
        adopted_zombies::reap_ended(core);
        return (Vec::new(), Report::default());
    }
    let (mut claimed, recorded) = claim_own(core, mine, over);
    for TreeTarget { root, .. } in &mut claimed {
        plan.replace_in(&mut root.end_plan, &mut root.limits.grace);
    }
    let rows: Vec<ProcessId> = claimed.iter().map(|tree| tree.root.row).collect();
    let ours: HashSet<ProcessId> = rows.iter().copied().collect();
    for entry in mine.iter().filter(|entry| ours.contains(&entry.root.row)) {
        entry.set_ending(cause);
    }
    let mut others = Vec::new();
    for entry in mine.iter().filter(|entry| !ours.contains(&entry.root.row)) {
        // Another instance is ending it for a person's kill, or has already settled it.
        core.registry.give_up(entry);
        others.push(Arc::clone(entry));
    }
    let mut report = Report::default();
    let (context, complete) = context::context_or_certain(core, &rows);
    report.add_error(complete);
    report.absorb(end_own(core, cause, &context, claimed, recorded));
    release::release_ended(core, &rows);
    (others, report)
}

fn end_own(
    core: &Core,
    cause: &Cause,
    context: &EndContext<'_>,
    trees: Vec<TreeTarget>,
    claim_recorded: bool,
) -> Report {
    let ends =
        end_trees(context, trees, &mut |root, found| outcome::record_found(core, root, found));
    let outcome::Conclusion { settled, mut report, .. } = outcome::conclude(core, cause, ends);
    if claim_recorded {
        report.add_error(outcome::write(core, None, settled));
    } else {
        // A row without a claim is not updated. The claim is written later, with the outcome.
        report.errors.push("the ledger could not be written while tasks were ended".into());
        core.pending.settled.extend(settled);
        flush::try_flush(core);
    }
    report
}

/// Claims our own roots with their recorded descendants. If the ledger cannot be written, returns
/// all of them, and `false`.
pub(in crate::tracker) fn claim_own(
    core: &Core,
    entries: &[&Arc<Tracked>],
    over: TakeOver<'_>,
) -> (Vec<TreeTarget>, bool) {
    let roots: Vec<ProcessId> = entries.iter().map(|entry| entry.root.row).collect();
    // If the ledger cannot be read either, the names that are known here still apply, and the
    // session contains the processes of a root without recorded descendants.
    let mut descendants = core.store.descendants(&roots).unwrap_or_default();
    let mut rows = Vec::with_capacity(entries.len());
    let mut trees = Vec::with_capacity(entries.len());
    for entry in entries {
        let RecordedDescendants { live, spared } =
            descendants.remove(&entry.root.row).unwrap_or_default();
        rows.push([entry.root.row].into_iter().chain(live.iter().map(|(row, _)| *row)).collect());
        trees.push(TreeTarget {
            exemptions: exemptions_of(entry, spared),
            recorded: strays::some_rows(live),
            ..strays::tree_of(entry, None)
        });
    }
    match claim_trees(core, &rows, over) {
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

/// Claims rows. Checks for claims of dead instances only if a row is not free.
fn claim_trees(
    core: &Core,
    trees: &[Vec<ProcessId>],
    over: TakeOver<'_>,
) -> Result<HashSet<ProcessId>> {
    if trees.is_empty() {
        return Ok(HashSet::new());
    }
    let mut claimed: HashSet<ProcessId> =
        core.store.claim_own(trees, core.instance.id, over)?.into_iter().collect();
    let missed: Vec<Vec<ProcessId>> =
        trees.iter().filter(|tree| !claimed.contains(&tree[0])).cloned().collect();
    let roots: Vec<ProcessId> = missed.iter().map(|tree| tree[0]).collect();
    if !roots.is_empty() {
        let dead = foreign_claims::dead_among_claimants(core, &roots)?;
        if !dead.is_empty() {
            let over = TakeOver { dead: &dead, live: false };
            claimed.extend(core.store.claim_own(&missed, core.instance.id, over)?);
        }
    }
    Ok(claimed)
}
