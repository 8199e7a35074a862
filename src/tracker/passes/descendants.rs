//! Records the processes that belong to live roots, with memory and CPU time, and checks their
//! trees against their limits.
//!
//! Members are found as an end would find them: below the root, in its session, below a recorded
//! descendant. Environments are read for the token only if a memory limit requires it, and only
//! those of processes that are younger than the root and not known to belong to a tree: some 10 µs
//! for each. Members that are found are recorded, so that they are known the next time, and after a
//! crash.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use super::{
    held_pidfds::{held_alive, seen_alive},
    tree_memory::tree_memory,
};
use crate::{
    error::Result,
    identity::Pid,
    model::{
        CPU_STEP, EndReason, Evidence, Limits, NewProcess, ProcessId, ProcessRecord, RuleKey,
        Sighting, State,
    },
    policy::{
        exemption::System,
        limits::ran_too_long,
        membership::{Protects, decide},
    },
    store::FoundMember,
    sys::{
        Pinned, Probe,
        proc::cpu_time,
        snapshot::{Snapshot, Stat},
    },
    tracker::{
        core::Core,
        end::{context::root_of, run::protected},
        membership::{
            evidence::pin,
            foreign_roots::foreign_roots,
            observation::{Observation, RecordedTree},
            process_info::{ProcessInfo, command_of},
        },
        runtime::{cause::Cause, tracked::Tracked},
    },
};

/// A row of ours with its live process.
pub(in crate::tracker) type Living = (ProcessRecord, Pinned);

/// All our rows with live processes, in one snapshot.
pub(in crate::tracker) struct SeenTrees<'a> {
    snapshot: &'a Snapshot,
    system: System<'a>,
    observation: Observation<'a>,
    /// Processes that have a row, by PID and start tick.
    known: HashSet<(Pid, u64)>,
}

/// Records the members of each live root; returns the trees that have exceeded a limit or had
/// survived, and whether everything was recorded.
///
/// The caller has verified that the roots were alive after `snapshot` was taken: they had their
/// PIDs then.
pub(in crate::tracker) fn record_members(
    core: &Core,
    snapshot: &Snapshot,
    alive: &[Living],
) -> (Vec<(Arc<Tracked>, Cause)>, Result<()>) {
    if alive.is_empty() {
        return (Vec::new(), Ok(()));
    }
    let seen_trees = match seen_trees(core, snapshot, alive) {
        Ok(seen_trees) => seen_trees,
        // It is unknown which processes belong to other instances, so none is recorded as ours.
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut sightings = Vec::new();
    let mut found = Vec::new();
    let mut due = Vec::new();
    for (row, pinned) in alive {
        let mut rss = pinned.stat.rss_bytes;
        if row.spec.root.is_none() {
            let below = below(core, &seen_trees, row);
            rss += below.iter().map(|(stat, _)| stat.rss_bytes).sum::<u64>();
            found.extend(new_rows(core, &seen_trees, row, &below));
            if let Some(entry) = core.registry.get(row.id)
                && let Some(cause) = why_due(core, row, &entry, &pinned.stat, &below)
            {
                due.push((entry, cause));
            }
        }
        let sighting = Sighting { process: row.id, rss, cpu: cpu_time(&pinned.stat) };
        if is_news(row, &sighting) {
            sightings.push(sighting);
        }
    }
    let mut written = core.store.observe(&sightings).map(|_| ());
    if written.is_ok() && !found.is_empty() {
        written = write_members(core, &found);
    }
    (due, written)
}

/// Writes rows of members of live trees.
pub(in crate::tracker) fn write_members(core: &Core, found: &[FoundMember]) -> Result<()> {
    core.recorded_members.store(true, Ordering::Relaxed);
    core.store.insert_members(found)
}

/// Returns why a tree of ours must be ended now; its age is checked before its memory.
fn why_due(
    core: &Core,
    row: &ProcessRecord,
    entry: &Tracked,
    root: &Stat,
    below: &[(&Stat, Evidence)],
) -> Option<Cause> {
    let cause = |reason, rule| Some(Cause { reason, leak: None, rule });
    if let Some(rule) = ran_too_long(row.spec.limits.max_runtime, entry.run_time()) {
        return cause(EndReason::MaxRuntime, rule);
    }
    if let Some(limit) = row.spec.limits.max_rss {
        let all = std::iter::once(root).chain(below.iter().map(|(stat, _)| *stat));
        let members: Vec<_> = all.map(|stat| (stat.pid, stat.start_tick)).collect();
        if let Some(rule) = tree_memory(core, limit, &members).is_too_much(limit) {
            return cause(EndReason::MaxRss, rule);
        }
    }
    (row.life.state() == State::Survived || could_not_be_judged(row)).then(|| Cause {
        reason: EndReason::Terminated,
        leak: None,
        rule: RuleKey::SurvivedBefore.into(),
    })
}

/// Returns our rows whose processes are alive, as shown by the snapshot.
pub(in crate::tracker) fn living(
    core: &Core,
    rows: Vec<ProcessRecord>,
    snapshot: &Snapshot,
) -> Vec<Living> {
    let held = held_alive(core, &rows);
    let alive = |row: ProcessRecord| {
        let held = held.get(&row.id).and_then(|fd| seen_alive(&row, fd, snapshot));
        match held.map_or_else(
            || Pinned::probe(&core.proc, core.pid_scope(), &row.spec.identity),
            Probe::Alive,
        ) {
            Probe::Alive(pinned) => Some((row, pinned)),
            Probe::Zombie(_) | Probe::Gone | Probe::Unknown(_) => None,
        }
    };
    rows.into_iter().filter_map(alive).collect()
}

pub(in crate::tracker) fn seen_trees<'a>(
    core: &'a Core,
    snapshot: &'a Snapshot,
    alive: &'a [Living],
) -> Result<SeenTrees<'a>> {
    let mut recorded: HashMap<ProcessId, Vec<Pid>> = HashMap::new();
    for (row, root) in alive.iter().filter_map(|(row, _)| Some((row, row.spec.root?))) {
        recorded.entry(root).or_default().push(row.pid());
    }
    let roots = alive.iter().map(|(row, _)| row).filter(|row| row.spec.root.is_none());
    let trees = roots.map(|root| {
        let descendants = recorded.remove(&root.id).unwrap_or_default();
        RecordedTree { root, descendants }
    });
    let known: HashSet<(Pid, u64)> =
        (alive.iter()).map(|(row, _)| (row.pid(), row.spec.identity.start_tick)).collect();
    let context = (&core.store, &core.proc, core.instance.observer);
    let system = System::new(snapshot, Some(core.own_pid()), &foreign_roots(core, &[])?);
    let skips = |stat: &Stat| {
        known.contains(&(stat.pid, stat.start_tick)) && !system.is_accounted_for(stat.pid)
    };
    let limited = |root: &ProcessRecord| root.spec.limits.max_rss.is_some();
    let observation = Observation::new(context, snapshot, trees.collect(), limited, skips)?;
    Ok(SeenTrees { snapshot, system, observation, known })
}

/// Returns the members of a root's tree except the root itself and processes that an end would
/// spare. Those are not recorded: with a row, an instance without the same protected names would
/// end them.
pub(in crate::tracker) fn below<'s>(
    core: &Core,
    seen_trees: &'s SeenTrees<'_>,
    root: &ProcessRecord,
) -> Vec<(&'s Stat, Evidence)> {
    let facts = seen_trees.observation.facts(root, true);
    let job = core.registry.get(root.id).map(|entry| Arc::clone(&entry.strays.protected));
    let names = [core.options.protected.as_slice(), job.as_deref().unwrap_or_default()];
    let mut protects = |stat: &Stat| protected(&core.proc, stat.pid, &names);
    let protects: Option<Protects<'_>> =
        if names.iter().all(|names| names.is_empty()) { None } else { Some(&mut protects) };
    let found = decide(&seen_trees.system, &facts, protects);
    // A process that must not be touched, such as another user's program that a task started, does
    // not count and gets no row.
    let (owner, proc) = (core.instance.observer.uid, &core.proc);
    let may_touch = |pid: Pid| owner == 0 || proc.is_of(pid, owner);
    let others = found.members.into_iter();
    let others = others.filter(|(pid, _)| *pid != root.pid() && may_touch(*pid));
    others.filter_map(|(pid, evidence)| Some((seen_trees.snapshot.get(pid)?, evidence))).collect()
}

/// Returns rows for members that have none yet, so that a member that later leaves the session and
/// clears its environment is known.
fn new_rows(
    core: &Core,
    seen_trees: &SeenTrees<'_>,
    root: &ProcessRecord,
    below: &[(&Stat, Evidence)],
) -> Vec<FoundMember> {
    let new = below.iter().filter(|(seen, _)| {
        !seen.is_zombie() && !seen_trees.known.contains(&(seen.pid, seen.start_tick))
    });
    let may_stay = core.registry.get(root.id).is_some_and(|entry| entry.strays.keep);
    let row = |(seen, evidence): &(&Stat, Evidence)| {
        let new = new_row(core, root, seen_trees.snapshot, seen, *evidence)?;
        Some(FoundMember { new, may_stay })
    };
    new.filter_map(row).collect()
}

pub(in crate::tracker) fn new_row(
    core: &Core,
    root: &ProcessRecord,
    snapshot: &Snapshot,
    seen: &Stat,
    evidence: Evidence,
) -> Option<NewProcess> {
    let tree = root_of(core, root);
    let pinned = pin(&core.proc, core.pid_scope(), snapshot, seen, &tree, evidence, |_| true);
    let pinned = pinned.ok().flatten()?;
    let mut info = ProcessInfo::observed(&core.proc, &pinned, &tree, evidence);
    if !core.instance.observer.may_touch(info.uid) {
        return None;
    }
    info.command = command_of(&core.proc, seen.pid, tree.arguments);
    let mut new = info.new_row(core.instance.id, &tree);
    let Limits { survive, grace, .. } = root.spec.limits;
    new.spec.limits = Limits { survive, ..Limits::with_grace(grace) };
    Some(NewProcess { claimed: false, allow_survivor: true, ..new })
}

/// Returns whether a row lacks this information. Usually it does not, and the ledger is not
/// queried.
fn is_news(row: &ProcessRecord, sighting: &Sighting) -> bool {
    sighting.rss > row.peak_rss.unwrap_or(0)
        || row.cpu.unwrap_or_default().abs_diff(sighting.cpu) >= CPU_STEP
}

/// Returns whether a process was to be ended, but was not signalled since it could not be
/// identified with certainty.
fn could_not_be_judged(row: &ProcessRecord) -> bool {
    row.life.state() == State::Running && row.last_error.is_some() && !row.spec.limits.survive
}
