//! Collects the facts about trees that are not being ended, once for all of them: for the health
//! pass, the memory limits, `tree` and `ps`.
//!
//! An end collects its own facts ([`crate::tracker::end::run`]): it holds pidfds, and collects them
//! again while processes are dying.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
};

use uuid::Uuid;

use super::{
    recorded_keeper::{recorded_keeper, verified},
    task_cgroup::list,
};
use crate::{
    error::Result,
    identity::{Identity, Pid},
    model::{Observer, ProcessId, ProcessRecord, State},
    policy::{
        membership::{Known, TreeFacts},
        token_holders::{TokenHolders, TokenOwner, TokenReader, token_holders},
    },
    store::Store,
    sys::{
        Proc,
        cgroup::TaskCgroup,
        snapshot::{Snapshot, Stat},
    },
};

/// A root with recorded descendants, each of which was found alive after the snapshot was taken.
#[derive(Debug)]
pub(in crate::tracker) struct RecordedTree<'a> {
    pub(in crate::tracker) root: &'a ProcessRecord,
    pub(in crate::tracker) descendants: Vec<Pid>,
}

/// The facts about some trees.
pub(in crate::tracker) struct Observation<'a> {
    proc: &'a Proc,
    observer: Observer,
    snapshot: &'a Snapshot,
    descendants: HashMap<ProcessId, Vec<Pid>>,
    holders: TokenHolders,
    keepers: HashMap<ProcessId, Pid>,
    left_before: HashMap<ProcessId, Vec<Identity>>,
}

impl<'a> Observation<'a> {
    /// Collects the facts about `trees`. Environments are read only for the tokens of roots that
    /// are `searched`. Those of skipped processes, which are in some tree by other evidence, are
    /// not read.
    pub(in crate::tracker) fn new(
        (store, proc, observer): (&Store, &'a Proc, Observer),
        snapshot: &'a Snapshot,
        trees: Vec<RecordedTree<'_>>,
        searched: impl Fn(&ProcessRecord) -> bool,
        skips: impl Fn(&Stat) -> bool,
    ) -> Result<Self> {
        let roots: Vec<&ProcessRecord> = trees.iter().map(|tree| tree.root).collect();
        let owner = |root: &&ProcessRecord| {
            let (uid, start_tick) = (root.spec.uid, root.spec.identity.start_tick);
            Some((root.spec.token?, TokenOwner { uid, start_tick }))
        };
        let owners = roots.iter().filter(|root| searched(root)).filter_map(owner).collect();
        let Ok(holders) = token_holders(snapshot, &owners, skips, &mut Readable(proc));
        let keeper =
            |root: &&ProcessRecord| Some((root.id, keeper(store, proc, observer, snapshot, root)?));
        Ok(Self {
            proc,
            observer,
            snapshot,
            keepers: roots.iter().filter_map(keeper).collect(),
            left_before: left_before(store, &roots)?,
            descendants: trees.into_iter().map(|tree| (tree.root.id, tree.descendants)).collect(),
            holders,
        })
    }

    /// Returns the facts about one of the trees. `is_there` says whether its root is alive or a
    /// zombie, and had its PID while the snapshot was taken.
    pub(in crate::tracker) fn facts(&self, root: &ProcessRecord, is_there: bool) -> TreeFacts {
        let of_token = |token: Uuid| self.holders.of_user.get(&token).cloned();
        let of_others = |token: Uuid| self.holders.of_others.get(&token).cloned();
        let recorded = self.descendants.get(&root.id).into_iter().flatten();
        let left = self.left_before.get(&root.id).into_iter().flatten();
        TreeFacts {
            root: is_there.then_some(root.pid()),
            may_spare_root: root.spec.root.is_some(),
            session: root.spec.session,
            task_cgroup: self.in_task_cgroup(root),
            keeper: self.keepers.get(&root.id).copied(),
            known: recorded.map(|pid| Known::recorded(*pid)).collect(),
            token_holders: root.spec.token.and_then(of_token).unwrap_or_default(),
            other_holders: root.spec.token.and_then(of_others).unwrap_or_default(),
            left_before: left.map(|it| (it.pid, it.start_tick)).collect(),
            keeps_strays: false,
            spared_before: BTreeMap::new(),
            exempt_before: HashSet::new(),
            on_terminal_before: HashSet::new(),
        }
    }

    /// Returns the processes in the root's task cgroup, listed after the snapshot, so that a PID in
    /// both is the same process in both. If the cgroup cannot be read, only the other evidence
    /// counts.
    fn in_task_cgroup(&self, root: &ProcessRecord) -> HashSet<Pid> {
        let record = root.spec.cgroup.as_ref();
        let task_cgroup =
            record.and_then(|record| TaskCgroup::open(record, self.observer.uid).ok().flatten());
        task_cgroup
            .and_then(|task_cgroup| list(self.proc, self.snapshot, &task_cgroup, false).ok())
            .unwrap_or_default()
            .pids
    }
}

/// Returns the keeper of a recorded root, if it is alive and had its PID while the snapshot was
/// taken.
fn keeper(
    store: &Store,
    proc: &Proc,
    observer: Observer,
    snapshot: &Snapshot,
    root: &ProcessRecord,
) -> Option<Pid> {
    let keeper = recorded_keeper(store, proc, observer.scope, root)?;
    let seen = snapshot.get(keeper.pid)?;
    (seen.start_tick == keeper.start_tick).then_some(())?;
    verified(proc, observer, &keeper, root.spec.uid).map(|pinned| pinned.pid())
}

/// Returns the processes of each tree that were left running before. If no attempt was made to end
/// a tree, there are none, and the ledger is not queried.
fn left_before(
    store: &Store,
    roots: &[&ProcessRecord],
) -> Result<HashMap<ProcessId, Vec<Identity>>> {
    let was_tried = |root: &&&ProcessRecord| {
        root.life.state() != State::Running || root.last_error.is_some() || root.spec.root.is_some()
    };
    let tried: Vec<&ProcessRecord> = roots.iter().filter(was_tried).copied().collect();
    let of =
        |root: &&ProcessRecord| [Some((root.id, root.id)), root.spec.root.map(|of| (root.id, of))];
    let rows: Vec<(ProcessId, ProcessId)> = tried.iter().flat_map(of).flatten().collect();
    let mut left: HashMap<ProcessId, Vec<Identity>> = HashMap::new();
    if rows.is_empty() {
        return Ok(left);
    }
    let of: Vec<ProcessId> = rows.iter().map(|(_, of)| *of).collect();
    let descendants = store.descendants(&of)?;
    for (root, of) in rows {
        let spared = descendants.get(&of).map(|found| found.spared.clone());
        left.entry(root).or_default().extend(spared.unwrap_or_default());
    }
    Ok(left)
}

/// Reads tokens where possible: a process whose environment may not be read, or that is calling
/// exec, shows none.
struct Readable<'a>(&'a Proc);

impl TokenReader for Readable<'_> {
    type Error = Infallible;

    fn tokens(&mut self, stat: &Stat) -> Result<Vec<Uuid>, Infallible> {
        Ok(self.0.tokens(stat.pid).unwrap_or_default())
    }

    fn uid(&mut self, pid: Pid) -> Result<Option<u32>, Infallible> {
        Ok(self.0.uid(pid).ok().flatten())
    }
}
