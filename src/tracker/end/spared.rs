//! Records processes that are left running on purpose: each as a leak with the outcome `kept`, and
//! a row that is ended as `released`.
//!
//! No instance is responsible for such a process any more, so no later pass ends it as an orphan,
//! whatever its root's row says. A process that was left once is never ended later: an attempt on
//! the same tree, by any instance and with any set of names, reads these rows first.

use std::collections::HashMap;

use super::{context, foreign_claims, run::Exemptions};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Reach, Sameness},
    model::{
        End, EndReason, Evidence, InstanceId, Justification, LeakKind, Millis, NewLeak, NewProcess,
        Outcome, ProcessId, ProcessRecord, Row, Rule, Settled, SpareReason, State, Verdict,
        task_text,
    },
    store::TakeOver,
    sys::Pinned,
    tracker::{
        core::Core,
        membership::process_info::{ProcessInfo, command_of},
        runtime::{
            tracked::{Root, Tracked},
            unrecorded_ends::{self, UnrecordedSpared},
        },
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

/// Records the processes that former hosts left running on purpose and could not record. To be
/// called before an orphan pass, which would end them with the trees of their roots.
pub(in crate::tracker) fn record_spared_before(core: &Core) -> Result<()> {
    let spared = unrecorded_ends::spared_before(&core.store)?;
    if spared.is_empty() {
        return Ok(());
    }
    let roots: Vec<ProcessId> = spared.iter().map(|spared| spared.root).collect();
    let descendants = core.store.descendants(&roots)?;
    let mut settled = Vec::new();
    for UnrecordedSpared { root, pid, start_tick, leak } in spared {
        let Some(root) = core.store.process(root)?.filter(|row| row.spec.root.is_none()) else {
            continue;
        };
        let here = core.pid_scope();
        if root.life.state() == State::Ended || here.reach(&root.spec.identity.scope) != Reach::Here
        {
            continue;
        }
        let found = match Pinned::open(&core.proc, here, pid) {
            Ok(found) => found,
            // A process that cannot be identified is not signalled either.
            Err(error) if error.kind() == Kind::Unknown => {
                tracing::warn!("it is unknown whether process {pid} was left on purpose: {error}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(pinned) = found.filter(|found| found.stat.start_tick == start_tick) else {
            continue;
        };
        let known = descendants.get(&root.id);
        let is_same = |identity: &Identity| identity.sameness(&pinned.identity) == Sameness::Same;
        if known.is_some_and(|known| known.spared.iter().any(is_same)) {
            continue;
        }
        let row = known.and_then(|known| known.live.iter().find(|(_, it)| is_same(it)));
        let row = match row {
            Some((row, _)) => {
                let dead = foreign_claims::dead_among_claimants(core, &[*row])?;
                let over = TakeOver { dead: &dead, live: false };
                core.store.claim_over(&[*row], core.instance.id, None, None, over)?;
                Row::Existing(*row)
            }
            None => Row::New(Box::new(new_row(core, &root, &pinned, &leak))),
        };
        let (because, now) = (Some(leak.because.clone()), Millis::now());
        let end = End { because, ..End::unobserved(EndReason::Released, now) };
        settled.push(Settled { row, verdict: Verdict::Kept(end), leak: Some(leak) });
    }
    core.store.record(core.instance.id, None, &settled).map(|_| ())
}

fn new_row(core: &Core, root: &ProcessRecord, pinned: &Pinned, leak: &NewLeak) -> NewProcess {
    let root = context::root_of(core, root);
    let command = command_of(&core.proc, pinned.identity.pid, root.arguments);
    let observed = ProcessInfo::observed(&core.proc, pinned, &root, Evidence::Recorded);
    let mut new = ProcessInfo { command, ..observed }.new_row(core.instance.id, &root);
    new.spec.evidence = Some(leak.because.evidence.clone());
    new
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
