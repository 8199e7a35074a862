//! Which processes must not be touched on behalf of a tree: the acting process with its ancestors, and what other instances are
//! responsible for.

use std::collections::{HashMap, HashSet};

use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// A live instance, or one of which it is unknown whether it is alive, with the processes that it is responsible for. A
/// process that this call is about to end is in none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) instance: Pid,
    pub(crate) processes: Vec<Pid>,
}

/// The machine at one time, as far as all trees have it in common.
#[derive(Debug)]
pub(crate) struct System<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// The process on whose behalf trees are ended.
    acting: Option<Pid>,
    /// The acting process and its ancestors.
    lineage: HashSet<Pid>,
    /// Each instance with its ancestors, as far as they are in the snapshot: the foreign ones in their order, then the acting
    /// one.
    chains: Vec<Vec<&'a Stat>>,
    /// Which of the foreign instances each process belongs to, the instances included.
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

    /// Returns the processes that a tree must leave running on behalf of the acting process: itself and its ancestors; and its
    /// descendants, where it runs within this very tree, because those processes have the tree's token, session and parents. Of
    /// any other tree the acting process is often the parent, which exempts nothing. `begins` says whether a process is one
    /// that the tree begins with.
    pub(super) fn kin(&self, begins: impl Fn(&Stat) -> bool) -> HashSet<Pid> {
        let mut kin = self.lineage.clone();
        let within = kin.iter().any(|&pid| self.snapshot.get(pid).is_some_and(&begins));
        if let Some(acting) = self.acting.filter(|_| within) {
            kin.extend(self.snapshot.below(acting));
        }
        kin
    }

    /// Returns whether another instance is responsible for a process, or is it, or whether it is the acting process or an
    /// ancestor.
    pub(crate) fn is_accounted_for(&self, pid: Pid) -> bool {
        self.owners.contains_key(&pid) || self.lineage.contains(&pid)
    }

    /// Returns for each instance, the acting one last, whether it descends from the root, so that it goes with the tree.
    pub(super) fn instances_that(&self, descends: impl Fn(&[&Stat]) -> bool) -> Vec<bool> {
        self.chains.iter().map(|chain| !chain.is_empty() && descends(chain)).collect()
    }

    /// Returns whether an instance that does not descend from the root is below its keeper: processes below that keeper may
    /// then belong to the new host, whose tasks' daemons are orphaned to it as well.
    pub(super) fn has_outside_below(&self, keeper: Pid, inside: &[bool]) -> bool {
        let is_below = |chain: &[&Stat]| chain.iter().any(|stat| stat.parent == keeper.get());
        self.chains.iter().zip(inside).any(|(chain, inside)| !inside && is_below(chain))
    }

    /// Returns what must not be touched on behalf of a tree. `inside`: the instances that descend from its root.
    ///
    /// An instance that a task of the tree has started has passed its cgroup and token on to what it starts itself, whether or
    /// not that is known: of `passed_on`, the processes that have either, those of other instances are exempt with their
    /// descendants. For any other instance, being below it proves nothing: it may be the subreaper of all processes (or PID 1).
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

/// Which of the instances are responsible for a process.
type Owners = HashMap<Pid, Vec<usize>>;

/// The processes that must not be touched on behalf of one tree. What belongs to instances is not copied: many trees are decided
/// in one pass.
#[derive(Debug)]
pub(crate) struct Exempt<'a> {
    owners: Option<&'a Owners>,
    root: Option<Pid>,
    pids: HashSet<Pid>,
    /// The instances that descend from the root of the tree.
    inside: Vec<bool>,
}

impl Exempt<'_> {
    /// Adds what an earlier scan of the same end has exempted.
    pub(super) fn keep(&mut self, before: &HashSet<Pid>) {
        self.pids.extend(before);
    }

    pub(super) fn only(pids: HashSet<Pid>) -> Self {
        Self { owners: None, root: None, pids, inside: Vec::new() }
    }

    pub(crate) fn contains(&self, pid: Pid) -> bool {
        self.pids.contains(&pid) || self.is_foreign(pid)
    }

    /// Returns what is exempt for a reason that a later scan may not find again: the acting process with its kin, and what
    /// other instances have passed the tree's cgroup or token on to.
    pub(crate) fn found(&self) -> impl Iterator<Item = Pid> + '_ {
        self.pids.iter().copied()
    }

    /// Returns whether an instance that is not inside of the tree is responsible for a process, or is it.
    fn is_foreign(&self, pid: Pid) -> bool {
        let owners = self.owners.and_then(|owners| owners.get(&pid)).into_iter().flatten();
        self.root != Some(pid) && owners.copied().any(|owner| !self.inside[owner])
    }
}

/// Returns the acting process, its ancestors and everything below it, which a search by name always skips.
pub(crate) fn oneself(snapshot: &Snapshot, own: Pid) -> HashSet<Pid> {
    let mut exempt = snapshot.below(own);
    exempt.extend(snapshot.ancestors(own));
    exempt.insert(own);
    exempt
}
