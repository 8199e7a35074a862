//! Determines which processes must not be touched on behalf of a tree: the acting process and its
//! ancestors, and the processes that other instances are responsible for.

use std::collections::{HashMap, HashSet};

use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// An instance that is, or may be, alive, with the processes that it is responsible for. Processes
/// that this call is about to end are not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) instance: Pid,
    pub(crate) processes: Vec<Pid>,
}

/// The state of the machine at one time, which all trees share.
#[derive(Debug)]
pub(crate) struct System<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// The process on whose behalf trees are ended.
    acting: Option<Pid>,
    /// The acting process and its ancestors.
    lineage: HashSet<Pid>,
    /// Each instance with its ancestors, as far as they are in the snapshot: the foreign instances
    /// in their order, then the acting process.
    chains: Vec<Vec<&'a Stat>>,
    /// The foreign instances that each process belongs to; an instance belongs to itself.
    owners: Owners,
}

impl<'a> System<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, acting: Option<Pid>, foreign: &[Foreign]) -> Self {
        let chain = |pid: Pid| -> Vec<&'a Stat> {
            let pids = [pid].into_iter().chain(snapshot.ancestors(pid));
            pids.map_while(|pid| snapshot.get(pid)).collect()
        };
        let mut owners = Owners::new();
        for (index, Foreign { instance, processes }) in foreign.iter().enumerate() {
            for pid in processes.iter().chain([instance]) {
                owners.entry(*pid).or_default().push(index);
            }
        }
        let instances = foreign.iter().map(|it| it.instance).chain(acting);
        Self {
            snapshot,
            acting,
            lineage: acting
                .into_iter()
                .flat_map(|own| [own].into_iter().chain(snapshot.ancestors(own)))
                .collect(),
            chains: instances.map(chain).collect(),
            owners,
        }
    }

    /// Returns the processes that the end of a tree must leave running for the sake of the acting
    /// process: itself, its ancestors and, if it runs within this very tree, its descendants, which
    /// have the tree's token, session and parents. The acting process is often the parent of other
    /// trees; that exempts nothing. `begins` reports whether a process is one that the tree begins
    /// with.
    pub(super) fn kin(&self, begins: impl Fn(&Stat) -> bool) -> HashSet<Pid> {
        let mut kin = self.lineage.clone();
        let within = kin.iter().any(|&pid| self.snapshot.get(pid).is_some_and(&begins));
        if let Some(acting) = self.acting.filter(|_| within) {
            kin.extend(self.snapshot.below(acting));
        }
        kin
    }

    /// Returns whether a process is another instance, belongs to one, or is the acting process or
    /// an ancestor of it.
    pub(crate) fn is_accounted_for(&self, pid: Pid) -> bool {
        self.owners.contains_key(&pid) || self.lineage.contains(&pid)
    }

    /// Returns for each instance, with the acting process last, whether it descends from the root
    /// and is therefore part of the tree.
    pub(super) fn instances_that(&self, descends: impl Fn(&[&Stat]) -> bool) -> Vec<bool> {
        self.chains.iter().map(|chain| !chain.is_empty() && descends(chain)).collect()
    }

    /// Returns whether an instance that does not descend from the root is below the root's keeper.
    /// Processes below that keeper may then belong to the new host, since the daemons of its tasks
    /// are orphaned to the keeper as well.
    pub(super) fn has_outside_below(&self, keeper: Pid, inside: &[bool]) -> bool {
        let is_below = |chain: &[&Stat]| chain.iter().any(|stat| stat.parent == keeper.get());
        self.chains.iter().zip(inside).any(|(chain, inside)| !inside && is_below(chain))
    }

    /// Returns what must not be touched on behalf of a tree. `inside`: the instances that descend
    /// from its root.
    ///
    /// An instance that was started by a task of the tree passes the tree's cgroup and token on to
    /// the processes that it starts, whether or not those are known. So the processes in
    /// `passed_on`, which have the cgroup or the token, are exempt with their descendants if they
    /// belong to another instance. Being below any other instance proves nothing, since that may be
    /// the subreaper of all processes (or PID 1).
    pub(super) fn exempt(
        &self,
        root: Option<Pid>,
        kin: HashSet<Pid>,
        inside: Vec<bool>,
        passed_on: impl Iterator<Item = Pid>,
    ) -> Exempt<'_> {
        let mut exempt = Exempt { owners: Some(&self.owners), root, pids: kin, inside };
        for pid in passed_on {
            if exempt.is_foreign(pid) {
                exempt.pids.extend(self.snapshot.below(pid));
            }
        }
        exempt
    }
}

/// For each process, the indexes of the instances that it belongs to.
type Owners = HashMap<Pid, Vec<usize>>;

/// The processes that must not be touched on behalf of one tree. Those of instances are not copied,
/// since one pass decides many trees.
#[derive(Debug)]
pub(crate) struct Exempt<'a> {
    owners: Option<&'a Owners>,
    root: Option<Pid>,
    pids: HashSet<Pid>,
    /// The instances that descend from the root of the tree.
    inside: Vec<bool>,
}

impl Exempt<'_> {
    /// Adds the processes that an earlier scan of the same end exempted.
    pub(super) fn keep(&mut self, before: &HashSet<Pid>) {
        self.pids.extend(before);
    }

    pub(super) fn only(pids: HashSet<Pid>) -> Self {
        Self { owners: None, root: None, pids, inside: Vec::new() }
    }

    pub(crate) fn contains(&self, pid: Pid) -> bool {
        self.pids.contains(&pid) || self.is_foreign(pid)
    }

    /// Returns the processes that are exempt for a reason that a later scan may not find again: the
    /// acting process with its kin, and the processes to which other instances passed the tree's
    /// cgroup or token on.
    pub(crate) fn found(&self) -> impl Iterator<Item = Pid> + '_ {
        self.pids.iter().copied()
    }

    /// Returns whether a process is, or belongs to, an instance outside the tree.
    fn is_foreign(&self, pid: Pid) -> bool {
        let owners = self.owners.and_then(|owners| owners.get(&pid)).into_iter().flatten();
        self.root != Some(pid) && owners.copied().any(|owner| !self.inside[owner])
    }
}

/// Returns the acting process, its ancestors and everything below it, which a search by name always
/// skips.
pub(crate) fn oneself(snapshot: &Snapshot, own: Pid) -> HashSet<Pid> {
    let mut exempt = snapshot.below(own);
    exempt.extend(snapshot.ancestors(own));
    exempt.insert(own);
    exempt
}
