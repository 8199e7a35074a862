//! Ends the remaining members of trees whose roots' ends are recorded.

use std::sync::Arc;

use super::{
    context, outcome,
    run::{Exemptions, TreeTarget, end_trees},
};
use crate::{
    identity::Identity,
    model::{ProcessId, Report},
    sys::PidFd,
    tracker::{
        core::Core,
        runtime::{cause::Cause, tracked::Tracked},
    },
};

/// Ends the remaining members of trees whose roots' ends are recorded.
pub(in crate::tracker) fn end_strays_of(core: &Core, trees: Vec<TreeTarget>) {
    let targets: Vec<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
    let cause = Cause::stray();
    let mut report = Report::default();
    match context::context(core, &targets) {
        Ok(context) => {
            let mut ends = end_trees(&context, trees, &mut |root, found| {
                outcome::record_found(core, root, found)
            });
            for end in &mut ends {
                // The root's own end is already recorded.
                end.members.retain(|member| !member.is_root);
                end.unknown.retain(|left| left.row != Some(end.root.row));
            }
            let outcome::Conclusion { settled, report: found, .. } =
                outcome::conclude(core, &cause, ends);
            report.absorb(found);
            report.add_error(outcome::write(core, None, settled));
        }
        Err(error) => {
            // Give the claims back, so that the health pass retries.
            tracing::error!("failed to end what ended processes left running: {error}");
            let rows = trees.iter().flat_map(|tree| &tree.recorded).filter_map(|(row, _)| *row);
            let settled = rows.map(|row| super::outcome::given_back(row, &error)).collect();
            report.add_error(outcome::write(core, None, settled));
        }
    }
}

/// Returns recorded descendants in the form for a [`TreeTarget`].
pub(in crate::tracker) fn some_rows(
    rows: Vec<(ProcessId, Identity)>,
) -> Vec<(Option<ProcessId>, Identity)> {
    rows.into_iter().map(|(row, identity)| (Some(row), identity)).collect()
}

/// Returns the tree of a root of this instance. `pidfd` is a descriptor of the root that is already
/// held.
pub(in crate::tracker) fn tree_of(entry: &Tracked, pidfd: Option<&Arc<PidFd>>) -> TreeTarget {
    TreeTarget {
        root: entry.root.clone(),
        pidfd: pidfd.or(entry.pidfd.as_ref()).cloned(),
        recorded: Vec::new(),
        exemptions: Exemptions::default(),
    }
}
