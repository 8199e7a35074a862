//! Processes that a scan leaves running on purpose: programs with protected names and their descendants, the strays of a job
//! that keeps them, and processes that were left before.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::state::{Work, World};
use crate::{
    error::{Error, Kind},
    identity::{Identity, Pid},
    model::Origin,
    policy::{
        membership::{Evidence, Members},
        name_match::{Program, matched, protects},
        protection,
    },
    sys::{
        Proc,
        snapshot::{Snapshot, Stat},
    },
};

const BEFORE: &str = "it was left before";
const KEEPS_STRAYS: &str = "its job keeps its strays";

/// What of a tree is left running on purpose, besides the names that the world protects.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct Leave {
    /// Everything except the root: its job keeps its strays.
    pub(in crate::tracker) all: bool,
    /// Names of programs that the job protects.
    pub(in crate::tracker) names: Arc<[String]>,
    /// What was left of this tree before: it has its own row, and no instance is responsible for it.
    pub(in crate::tracker) before: Vec<Identity>,
}

impl Work {
    /// Whether any process may have to be left running. As a rule there is none, and then no program is examined.
    pub(super) fn may_leave(&self, world: &World<'_>) -> bool {
        self.leave.all
            || !(self.leave.names.is_empty()
                && self.leave.before.is_empty()
                && world.protected.is_empty())
    }

    /// Whether any process in it is left running on purpose: then it cannot be ended by one action on all its members.
    pub(super) fn has_protected(&self) -> bool {
        self.left_before || self.members.iter().any(|member| member.kept.is_some())
    }

    /// Whether a member was killed and is not dead yet.
    pub(super) fn is_dying(&self) -> bool {
        self.members.iter().any(|member| member.is_alive() && member.killed)
    }

    /// Whether its root is one that a caller asked to end, rather than a descendant without a live root.
    pub(super) fn has_true_root(&self) -> bool {
        self.root.origin != Origin::Descendant
    }

    /// Where the scan failed, it is unknown which recorded descendants are to be left: none of them is signalled.
    pub(super) fn doubt_recorded(&mut self, world: &World<'_>, error: &Error) {
        if !self.may_leave(world) {
            return;
        }
        let (doubtful, sure): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|member| member.is_alive() && !(member.is_root && self.has_true_root()));
        let why = || Error::new(Kind::Unknown, error.to_string());
        self.unknown.extend(doubtful.into_iter().filter_map(|member| Some((member.row?, why()))));
        self.pids.clear();
        for member in sure {
            self.push(member);
        }
    }

    fn was_left_before(&self, stat: &Stat) -> bool {
        let same = |pid, tick| pid == stat.pid && tick == stat.start_tick;
        self.leave.before.iter().any(|identity| same(identity.pid, identity.start_tick))
    }

    /// Returns the rule by which a process itself is left running. Decided once: a process that has got its SIGTERM does not
    /// become exempt when it runs another program.
    fn judge(&mut self, world: &World<'_>, stat: &Stat) -> Option<String> {
        if self.was_left_before(stat) {
            self.left_before = true;
            return Some(BEFORE.to_owned());
        }
        if self.leave.all {
            return Some(KEEPS_STRAYS.to_owned());
        }
        if let Some(known) = self.judged.get(&(stat.pid, stat.start_tick)) {
            return known.clone();
        }
        let rule = protected(world.proc, stat.pid, &[world.protected, &self.leave.names]);
        self.judged.insert((stat.pid, stat.start_tick), rule.clone());
        rule
    }
}

/// Returns the rule by which one of the names protects a process.
pub(in crate::tracker) fn protected(proc: &Proc, pid: Pid, names: &[&[String]]) -> Option<String> {
    if names.iter().all(|names| names.is_empty()) {
        return None;
    }
    let argv = proc.command(pid).ok().flatten().unwrap_or_default();
    let program = Program { executable: proc.executable(pid), argv };
    names.iter().find_map(|names| matched(&program, names)).map(|found| protects(&found.rule))
}

/// Removes from `found` the processes that are left running, and returns each with its evidence and the rule.
pub(super) fn take_left(
    world: &World<'_>,
    snapshot: &Snapshot,
    tree: &mut Work,
    found: &mut Members,
    (root, exempt): (Option<Pid>, &HashSet<Pid>),
) -> Vec<(Pid, Evidence, String)> {
    if !tree.may_leave(world) {
        return Vec::new();
    }
    // A root that a caller asked to end is never left; a descendant without a live root is not such a root.
    let root = root.filter(|_| tree.has_true_root());
    let carriers: HashSet<Pid> = found.suspects.iter().copied().collect();
    let candidates: Vec<Pid> = found.members.keys().chain(&found.suspects).copied().collect();
    let left: BTreeMap<Pid, String> = protection::left(snapshot, root, candidates, exempt, |pid| {
        tree.judge(world, snapshot.get(pid)?)
    });
    found.suspects.retain(|pid| !left.contains_key(pid));
    left.into_iter()
        .map(|(pid, why)| {
            let evidence = match found.members.remove(&pid) {
                Some(evidence) => evidence,
                None if carriers.contains(&pid) => Evidence::Token,
                None => Evidence::ChildOf(parent(snapshot, pid).unwrap_or(pid)),
            };
            (pid, evidence, why)
        })
        .filter(|(pid, ..)| snapshot.get(*pid).is_some_and(|stat| !tree.was_left_before(stat)))
        .collect()
}

fn parent(snapshot: &Snapshot, pid: Pid) -> Option<Pid> {
    Pid::new(i64::from(snapshot.get(pid)?.parent))
}
