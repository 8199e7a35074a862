//! Determines which processes belong to each tracked root now, without touching any of them.
//!
//! Rows are read first, then `/proc` once, then each recorded identity is verified: a process that still has its recorded
//! identity had its PID while the snapshot was taken. Meanwhile no transaction is held, no instance is created, and no process
//! is signalled. What cannot be seen from here (another machine or PID namespace, a hidden `/proc`) is reported as the ledger
//! has it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    error::Result,
    identity::{Pid, Place},
    model::{
        FigureSource, InstanceId, Millis, Observer, ProcessId, ProcessRecord, Suspect, TaskId,
        TreeMember, TreeRecord,
    },
    policy::{
        membership::{Evidence, Members, TreeView, members},
        suspects::Doubt,
    },
    store::Store,
    sys::{
        Pinned, Probe, Proc,
        cgroup::TaskCgroup,
        current_place,
        proc::{TICKS_PER_SECOND, age},
        snapshot::{Snapshot, Stat},
    },
    tracker::{
        Ledger,
        end::{outcome::SUSPECTS, run::list_leaf},
        membership::{
            process_info::command_of,
            recorded_keeper::{recorded_keeper, verified},
        },
        runtime::tracked::may_record_arguments,
    },
};

impl Ledger {
    /// Returns every tracked root with the processes that belong to it now, the longest-running first.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// use procledger::{FigureSource, Job, Tracker};
    ///
    /// let tracker = Tracker::builder(&path).open()?;
    /// tracker.spawn(Job::new("task-42", "sleep").arg("300"))?;
    /// let trees = tracker.ledger().trees()?;
    /// assert_eq!(trees[0].source, FigureSource::Live);
    /// assert_eq!(trees[0].members[0].evidence, "identity");
    /// # tracker.shutdown()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read. It is not an error if a process cannot be examined: its tree is reported as recorded.
    pub fn trees(&self) -> Result<Vec<TreeRecord>> {
        forest(self.store(), |_| true)
    }

    /// Returns the same for one task; empty if nothing of the task is open.
    ///
    /// # Errors
    ///
    /// Invalid input for a bad task id; if the ledger cannot be read.
    pub fn trees_of(&self, task_id: &str) -> Result<Vec<TreeRecord>> {
        let task = TaskId::new(task_id)?;
        forest(self.store(), |root| root.task.as_ref() == Some(&task))
    }
}

/// A root, and the rows that passes recorded below it.
struct Rows {
    root: ProcessRecord,
    below: Vec<ProcessRecord>,
}

fn forest(store: &Store, wanted: impl Fn(&ProcessRecord) -> bool) -> Result<Vec<TreeRecord>> {
    let rows = store.live()?;
    let sight = Sight::open(store, &rows);
    let trees = group(rows).into_iter().filter(|tree| wanted(&tree.root));
    Ok(match sight {
        Ok(sight) => trees.map(|tree| sight.tree(tree)).collect(),
        Err(error) => trees.map(|tree| recorded(tree, &error.to_string())).collect(),
    })
}

/// Assigns descendants to their root; one whose root has ended stands alone.
fn group(rows: Vec<ProcessRecord>) -> Vec<Rows> {
    let roots: HashSet<ProcessId> =
        rows.iter().filter(|row| row.root.is_none()).map(|row| row.id).collect();
    let (below, tops): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.root.is_some_and(|root| roots.contains(&root)));
    let mut by_root: HashMap<Option<ProcessId>, Vec<ProcessRecord>> = HashMap::new();
    for row in below {
        by_root.entry(row.root).or_default().push(row);
    }
    let with_below = |root: ProcessRecord| Rows {
        below: by_root.remove(&Some(root.id)).unwrap_or_default(),
        root,
    };
    tops.into_iter().map(with_below).collect()
}

/// The machine at one moment.
struct Sight {
    proc: Proc,
    here: Place,
    /// UID of the ledger's owner: a leaf of another user is not one of ours.
    owner: u32,
    snapshot: Snapshot,
    carriers: HashMap<Uuid, Vec<Pid>>,
    /// Those of another UID, with that UID.
    others: HashMap<Uuid, Vec<(Pid, u32)>>,
    /// Live instances, each with the processes that it is responsible for.
    guards: Vec<(InstanceId, Pid, Vec<Pid>)>,
    /// Keepers by their roots, except those that a live instance is below: then being below the keeper proves nothing.
    keepers: HashMap<ProcessId, Pid>,
}

impl Sight {
    fn open(store: &Store, rows: &[ProcessRecord]) -> Result<Self> {
        let (proc, here) = (Proc::open()?, current_place()?);
        let snapshot = proc.snapshot()?;
        let (carriers, others) = carriers(&proc, &snapshot, rows);
        let guards = guards(store, &proc, here, rows)?;
        let mut keepers = keepers(store, &proc, here, &snapshot, rows);
        keepers.retain(|_, keeper| {
            let below = snapshot.below(*keeper);
            !guards.iter().any(|(_, instance, _)| below.contains(instance))
        });
        Ok(Self {
            proc,
            here,
            owner: store.owner_uid(),
            snapshot,
            carriers,
            others,
            guards,
            keepers,
        })
    }

    fn tree(&self, rows: Rows) -> TreeRecord {
        let alive = match Pinned::probe(&self.proc, self.here, &rows.root.identity) {
            Probe::Unknown(error) => return recorded(rows, &error.to_string()),
            Probe::Alive(_) => Some(true),
            Probe::Zombie(_) => Some(false),
            Probe::Gone => None,
        };
        let known: Vec<&ProcessRecord> = rows.below.iter().filter(|row| self.lives(row)).collect();
        let view = self.view(&rows.root, alive.is_some(), &known);
        let exempt = self.exempt(&rows.root, &view);
        let sure = members(&self.snapshot, &view, &exempt);
        let recorded = known.iter().map(|row| (row.identity.pid, Evidence::Recorded)).collect();
        let all = members(&self.snapshot, &TreeView { known: recorded, ..view }, &exempt);
        let ids = known.iter().map(|row| (row.identity.pid, row.id)).collect();
        let found = self.describe(&rows.root, alive == Some(true), &sure, &all, &ids);
        let on_terminals = all.suspects.iter().map(|&pid| (pid, Doubt::Terminal));
        let others = self
            .others_of(&rows.root)
            .filter(|(pid, _)| !all.members.contains_key(pid) && !exempt.contains(pid));
        let suspects = on_terminals
            .chain(others)
            .map(|(pid, doubt)| self.suspect(&rows.root, pid, doubt))
            .collect();
        TreeRecord {
            source: FigureSource::Live,
            obstacle: None,
            rss_bytes: Some(found.iter().filter_map(|member| member.rss_bytes).sum()),
            cpu: Some(found.iter().filter_map(|member| member.cpu).sum()),
            members: found,
            suspects,
            root: rows.root,
        }
    }

    fn others_of(&self, root: &ProcessRecord) -> impl Iterator<Item = (Pid, Doubt)> {
        let others = root.token.and_then(|token| self.others.get(&token)).into_iter().flatten();
        others.take(SUSPECTS).map(|&(pid, uid)| (pid, Doubt::OtherUser(uid)))
    }

    fn lives(&self, row: &ProcessRecord) -> bool {
        matches!(Pinned::probe(&self.proc, self.here, &row.identity), Probe::Alive(_))
    }

    /// Returns what is certain of a tree besides its recorded members: those are judged separately, to find their other
    /// evidence.
    fn view(&self, root: &ProcessRecord, there: bool, known: &[&ProcessRecord]) -> TreeView {
        let pinned = known.iter().copied().chain(there.then_some(root));
        let anchored = pinned.filter_map(|row| self.snapshot.get(row.identity.pid)).any(|stat| {
            root.session.is_some_and(|id| id.get() == stat.session || id.get() == stat.group)
        });
        let session = root.session.filter(|_| anchored);
        let carriers = root.token.and_then(|token| self.carriers.get(&token)).cloned();
        TreeView {
            root: there.then_some(root.identity.pid),
            session,
            group: session,
            known: Vec::new(),
            carriers: carriers.unwrap_or_default(),
            leaf: self.leaf(root),
            keeper: self.keepers.get(&root.id).copied(),
        }
    }

    /// Returns the processes in the root's leaf. Listed after the snapshot: a PID in both is the same process in both. If the
    /// leaf cannot be read, the other evidence remains.
    fn leaf(&self, root: &ProcessRecord) -> HashSet<Pid> {
        let leaf =
            root.cgroup.as_ref().and_then(|leaf| TaskCgroup::open(leaf, self.owner).ok().flatten());
        leaf.and_then(|leaf| list_leaf(&self.proc, &self.snapshot, &leaf, false).ok())
            .unwrap_or_default()
            .pids
    }

    /// Returns other live instances, with the processes that they are responsible for, that do not run below this very root: a
    /// task that restarts its host passes leaf and token on to the new one, which passes them on to the processes that it
    /// starts.
    fn exempt(&self, root: &ProcessRecord, view: &TreeView) -> HashSet<Pid> {
        let certain = TreeView { carriers: Vec::new(), leaf: HashSet::new(), ..view.clone() };
        let below = members(&self.snapshot, &certain, &HashSet::new()).members;
        let others = self.guards.iter().filter(|(instance, ..)| *instance != root.owner);
        let mut exempt = HashSet::new();
        for (_, own, theirs) in others.filter(|(_, own, _)| !below.contains_key(own)) {
            for pid in theirs.iter().chain([own]) {
                exempt.insert(*pid);
                if view.leaf.contains(pid) || view.carriers.contains(pid) {
                    exempt.extend(self.snapshot.below(*pid));
                }
            }
        }
        exempt
    }

    fn describe(
        &self,
        root: &ProcessRecord,
        alive: bool,
        sure: &Members,
        all: &Members,
        ids: &HashMap<Pid, ProcessId>,
    ) -> Vec<TreeMember> {
        let top = root.identity.pid;
        let stat = self.snapshot.get(top).filter(|_| alive);
        let mut found = vec![TreeMember {
            process: Some(root.id),
            parent: None,
            command: root.command.clone(),
            alive,
            is_root: true,
            age: age(root.identity.start_tick),
            ..member(top, Evidence::Root, stat)
        }];
        let arguments = may_record_arguments(&root.command);
        let may_touch = |pid: Pid| self.owner == 0 || self.proc.is_of(pid, self.owner);
        let stats = all.members.keys().filter(|&&pid| pid != top && may_touch(pid));
        let stats =
            stats.filter_map(|&pid| self.snapshot.get(pid).filter(|stat| !stat.is_zombie()));
        for (stat, parent) in below(top, stats.collect()) {
            let evidence = sure.members.get(&stat.pid).or(all.members.get(&stat.pid));
            found.push(TreeMember {
                process: ids.get(&stat.pid).copied(),
                parent: Some(parent),
                command: command_of(&self.proc, stat.pid, arguments),
                ..member(stat.pid, *evidence.unwrap_or(&Evidence::Recorded), Some(stat))
            });
        }
        found
    }

    fn suspect(&self, root: &ProcessRecord, pid: Pid, doubt: Doubt) -> Suspect {
        Suspect {
            task_id: root.task.clone(),
            pid,
            command: command_of(&self.proc, pid, may_record_arguments(&root.command)),
            why: doubt.to_string(),
        }
    }
}

/// Returns each member with the member below which it stands, in the order of a drawing of the tree from top to bottom. A
/// member whose parent is not a member stands directly below the root.
fn below(top: Pid, stats: Vec<&Stat>) -> Vec<(&Stat, Pid)> {
    let pids: HashSet<Pid> = stats.iter().map(|stat| stat.pid).collect();
    let mut children: BTreeMap<Pid, Vec<&Stat>> = BTreeMap::new();
    for stat in stats {
        let parent = Pid::new(i64::from(stat.parent)).filter(|pid| pids.contains(pid));
        children.entry(parent.unwrap_or(top)).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut open: Vec<(&Stat, Pid)> = Vec::new();
    let mut above = Some((top, children.remove(&top).unwrap_or_default()));
    while let Some((parent, stats)) = above {
        open.extend(stats.into_iter().rev().map(|stat| (stat, parent)));
        above = match open.pop() {
            Some((stat, parent)) => {
                found.push((stat, parent));
                Some((stat.pid, children.remove(&stat.pid).unwrap_or_default()))
            }
            // A loop of parents, which a torn read could show, is placed below the root.
            None => children.pop_first().map(|(_, stats)| (top, stats)),
        };
    }
    found
}

/// Builds a member from its line of `stat`; without one it is gone.
fn member(pid: Pid, evidence: Evidence, stat: Option<&Stat>) -> TreeMember {
    TreeMember {
        process: None,
        pid,
        parent: None,
        evidence: evidence.to_string(),
        command: Vec::new(),
        alive: stat.is_some(),
        is_root: false,
        age: stat.map_or(Duration::ZERO, |stat| age(stat.start_tick)),
        rss_bytes: stat.map(|stat| stat.rss_bytes),
        cpu: stat.map(|stat| {
            let ticks = stat.cpu_ticks.saturating_add(stat.reaped_cpu_ticks);
            Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND))
        }),
    }
}

/// Returns a tree as the ledger has it.
fn recorded(rows: Rows, obstacle: &str) -> TreeRecord {
    let now = Millis::now();
    let Rows { root, below } = rows;
    let member = |row: &ProcessRecord, is_root: bool| TreeMember {
        process: Some(row.id),
        pid: row.identity.pid,
        parent: (!is_root).then_some(root.identity.pid),
        evidence: if is_root { Evidence::Root } else { Evidence::Recorded }.to_string(),
        command: row.command.clone(),
        alive: true,
        is_root,
        age: now.since(row.started_at),
        // The values recorded for a root are those of its whole tree.
        rss_bytes: row.peak_rss.filter(|_| !is_root),
        cpu: row.cpu,
    };
    let members: Vec<TreeMember> = [member(&root, true)]
        .into_iter()
        .chain(below.iter().map(|row| member(row, false)))
        .collect();
    TreeRecord {
        source: FigureSource::Recorded,
        obstacle: Some(obstacle.to_owned()),
        rss_bytes: root.peak_rss,
        cpu: members.iter().filter_map(|member| member.cpu).reduce(|sum, cpu| sum + cpu),
        members,
        suspects: Vec::new(),
        root,
    }
}

type Carriers = (HashMap<Uuid, Vec<Pid>>, HashMap<Uuid, Vec<(Pid, u32)>>);

/// Returns the processes that carry the token of a root and are no older than it: those of the root's user, and those of other
/// users.
fn carriers(proc: &Proc, snapshot: &Snapshot, rows: &[ProcessRecord]) -> Carriers {
    let wanted: HashMap<Uuid, &ProcessRecord> =
        rows.iter().filter_map(|row| Some((row.token?, row))).collect();
    let oldest = wanted.values().map(|row| row.identity.start_tick).min().unwrap_or(u64::MAX);
    let mut found: Carriers = Carriers::default();
    let candidates =
        snapshot.iter().filter(|stat| !stat.is_kernel_thread() && stat.start_tick >= oldest);
    for stat in candidates {
        for token in proc.tokens(stat.pid).unwrap_or_default() {
            let Some(row) = wanted.get(&token) else { continue };
            match proc.uid(stat.pid).ok().flatten() {
                Some(uid) if uid == row.uid => found.0.entry(token).or_default().push(stat.pid),
                Some(uid) => found.1.entry(token).or_default().push((stat.pid, uid)),
                None => {}
            }
        }
    }
    found
}

/// Returns the keepers of live roots: by the identities in their rows, each verified after the snapshot was taken.
fn keepers(
    store: &Store,
    proc: &Proc,
    here: Place,
    snapshot: &Snapshot,
    rows: &[ProcessRecord],
) -> HashMap<ProcessId, Pid> {
    let of_row = |row: &ProcessRecord| {
        let keeper = recorded_keeper(store, proc, here, row)?;
        let seen = snapshot.get(keeper.pid)?;
        (seen.start_tick == keeper.start_tick).then_some(())?;
        let observer = Observer { place: here, uid: store.owner_uid() };
        verified(proc, observer, &keeper, row.uid).map(|pinned| (row.id, pinned.pid()))
    };
    rows.iter().filter(|row| row.root.is_none()).filter_map(of_row).collect()
}

fn guards(
    store: &Store,
    proc: &Proc,
    here: Place,
    rows: &[ProcessRecord],
) -> Result<Vec<(InstanceId, Pid, Vec<Pid>)>> {
    let instances = store.instances_to_judge()?;
    let live = instances.into_iter().filter(|instance| {
        let there = || Pinned::probe(proc, here, &instance.identity);
        instance.stopped_at.is_none() && matches!(there(), Probe::Alive(_))
    });
    let theirs = |id: InstanceId| {
        rows.iter().filter(move |row| row.owner == id).map(|row| row.identity.pid).collect()
    };
    Ok(live.map(|instance| (instance.id, instance.identity.pid, theirs(instance.id))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::snapshot::tests::{pid, stat};

    fn shape(top: u32, stats: &[Stat]) -> Vec<(u32, u32)> {
        let found = below(pid(top), stats.iter().collect());
        found.into_iter().map(|(stat, parent)| (stat.pid.get(), parent.get())).collect()
    }

    #[test]
    fn parents_precede_their_children_and_members_without_a_parent_are_below_the_root() {
        let stats =
            [stat(14, 13, 1), stat(13, 12, 1), stat(11, 10, 1), stat(12, 10, 1), stat(30, 1, 30)];
        let shown = shape(10, &stats);
        assert_eq!(shown, [(11, 10), (12, 10), (13, 12), (14, 13), (30, 10)]);
    }

    #[test]
    fn a_loop_of_parents_is_shown_once() {
        let mut shown = shape(10, &[stat(11, 12, 1), stat(12, 11, 1)]);
        shown.sort_unstable();
        assert_eq!(shown.len(), 2, "{shown:?}");
    }
}
