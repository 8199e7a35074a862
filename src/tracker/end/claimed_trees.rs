//! Ends the trees of claimed rows.

use std::{collections::HashMap, sync::atomic::AtomicBool};

use super::{
    context, keeper_end_logs,
    outcome::{self, Conclusion},
    run::{TreeTarget, end_trees_unless},
    spared,
};
use crate::{
    error::Result,
    model::{ProcessId, ProcessRecord},
    tracker::{
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::{cause::Cause, tracked::Root},
    },
};

/// Ends the trees of claimed rows; returns the results to write and to report.
pub(in crate::tracker) fn end_claimed(
    core: &Core,
    cause: &Cause,
    claimed: Vec<ProcessRecord>,
) -> Conclusion {
    end_claimed_unless(core, &|_| cause.clone(), claimed, None)
}

/// Does the same, with a cause for the tree of each row.
pub(in crate::tracker) fn end_claimed_each(
    core: &Core,
    cause_of: &dyn Fn(ProcessId) -> Cause,
    claimed: Vec<ProcessRecord>,
) -> Conclusion {
    end_claimed_unless(core, cause_of, claimed, None)
}

/// Does the same, but gives the claims back once `interrupt` is set.
pub(in crate::tracker) fn end_claimed_unless(
    core: &Core,
    cause_of: &dyn Fn(ProcessId) -> Cause,
    mut claimed: Vec<ProcessRecord>,
    interrupt: Option<&AtomicBool>,
) -> Conclusion {
    if claimed.is_empty() {
        return Conclusion::default();
    }
    for record in &claimed {
        if let Some(entry) = core.registry.get(record.id) {
            entry.set_ending(&cause_of(record.id));
        }
    }
    let logs = keeper_end_logs::take_end_logs(core, &mut claimed);
    let mut all = Conclusion::default();
    all.report.errors.extend_from_slice(&logs.errors);
    let rows: Vec<ProcessId> = claimed.iter().map(|record| record.id).collect();
    let trees =
        context::context(core, &rows).and_then(|context| Ok((context, group(core, claimed)?)));
    all.absorb(match trees {
        Ok((context, trees)) => {
            let recorder =
                &mut |root: &Root, found: &[&ProcessInfo]| outcome::record_found(core, root, found);
            let mut ends = end_trees_unless(&context, trees, recorder, interrupt);
            logs.complete(&mut ends);
            outcome::conclude_each(core, cause_of, ends)
        }
        // Give the claims back, so that the next pass retries.
        Err(error) => Conclusion {
            settled: rows.iter().map(|row| outcome::given_back(*row, &error)).collect(),
            ..Conclusion::failed(&error)
        },
    });
    all
}

/// Groups claimed rows into trees: descendants are grouped with their root; if the root has ended,
/// each is a separate tree.
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

/// Returns trees that are known only by their rows.
pub(in crate::tracker) fn trees_of_rows(
    core: &Core,
    records: &[ProcessRecord],
) -> Result<Vec<TreeTarget>> {
    let mut exemptions = spared::exemptions_of_rows(core, records)?;
    let tree = |record: &ProcessRecord| TreeTarget {
        root: context::root_of(core, record),
        pidfd: core.registry.get(record.id).and_then(|entry| entry.pidfd.clone()),
        recorded: Vec::new(),
        exemptions: exemptions.remove(&record.id).unwrap_or_default(),
    };
    Ok(records.iter().map(tree).collect())
}
