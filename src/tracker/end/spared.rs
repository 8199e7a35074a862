//! Records processes that are left running on purpose: each as a leak with the outcome `kept`, and
//! a row that is ended as `released`.
//!
//! No instance is responsible for such a process any more, so no later pass ends it as an orphan,
//! whatever its root's row says. A process that was left once is never ended later: an attempt on
//! the same tree, by any instance and with any set of names, reads these rows first.

use std::collections::HashMap;

use super::run::Exemptions;
use crate::{
    error::{Error, Result},
    identity::Identity,
    model::SpareReason,
    model::{
        End, EndReason, InstanceId, Justification, LeakKind, Millis, NewLeak, Outcome, ProcessId,
        ProcessRecord, Row, Rule, Settled, Verdict, task_text,
    },
    tracker::{
        core::Core,
        membership::process_info::ProcessInfo,
        runtime::tracked::{Root, Tracked},
    },
};

/// Returns the result to write for a member that is left running. `row` is its own row, if it has
/// one.
pub(in crate::tracker) fn settle_spared(
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
    // Claimed, since the row belongs to the owner of its root, which may be another instance.
    let new = || Box::new(info.new_row(by, root));
    let rule = Rule::Spared(why.clone());
    let because = Justification::new(&rule, info.evidence);
    let end = End { because: Some(because.clone()), ..End::unobserved(EndReason::Released, now) };
    Settled {
        row: row.map_or_else(|| Row::New(new()), Row::Existing),
        verdict: Verdict::Kept(end),
        leak: Some(NewLeak {
            kind,
            because,
            found_at: now,
            age: info.age,
            rss: Some(info.rss),
            outcome: Outcome::Kept,
            died_after: None,
            stop_signal: None,
        }),
    }
}

/// Checks that each name is a file name, since programs are matched by the last component of a
/// path.
pub(in crate::tracker) fn check_names(what: &str, names: &[String]) -> Result<()> {
    match names.iter().find(|name| name.is_empty() || name.contains('/')) {
        Some(name) => Err(Error::invalid(format!(
            "the {what} name {name:?} is not a file name: use a name without folders"
        ))),
        None => Ok(()),
    }
}

/// Returns the exemptions of the trees of recorded roots, or of descendants without a live root.
pub(in crate::tracker) fn exemptions_of_rows(
    core: &Core,
    records: &[ProcessRecord],
) -> Result<HashMap<ProcessId, Exemptions>> {
    let rows = |record: &ProcessRecord| [Some(record.id), record.spec.root].into_iter().flatten();
    let targets: Vec<ProcessId> = records.iter().flat_map(rows).collect();
    let descendants = core.store.descendants(&targets)?;
    let exemptions = |record: &ProcessRecord| {
        let names = core.registry.get(record.id).map(|entry| entry.strays.protected.clone());
        let before = rows(record).filter_map(|row| descendants.get(&row));
        let before = before.flat_map(|found| found.spared.clone()).collect();
        (record.id, Exemptions { all: false, names: names.unwrap_or_default(), before })
    };
    Ok(records.iter().map(exemptions).collect())
}

/// Returns the exemptions of a root of this instance; `before` are the processes below it that the
/// ledger has as spared.
pub(in crate::tracker) fn exemptions_of(entry: &Tracked, before: Vec<Identity>) -> Exemptions {
    Exemptions { all: false, names: entry.strays.protected.clone(), before }
}
