//! Determines which processes belong to each tracked root now, without touching any of them.
//!
//! Rows are read first, then `/proc` once, then each recorded identity is verified: a process that
//! still has its recorded identity had its PID while the snapshot was taken. No transaction is held
//! meanwhile, no instance is created, and no process is signalled. Processes that cannot be seen
//! from here (another machine or PID namespace, a hidden `/proc`) are reported as recorded in the
//! ledger.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use crate::{
    error::Result,
    identity::Pid,
    model::{
        Evidence, FigureSource, InstanceId, InstanceRecord, Millis, Observer, Origin, ProcessId,
        ProcessRecord, Suspect, TaskId, TreeMember, TreeRecord,
    },
    policy::{
        exemption::{Foreign, System},
        membership::{Membership, decide},
        suspects::{LISTED, SuspectReason},
    },
    store::Store,
    sys::{
        Pinned, Probe, Proc, current_pid_scope,
        proc::{TICKS_PER_SECOND, age},
        snapshot::{Snapshot, Stat},
    },
    tracker::{
        Ledger,
        membership::{
            foreign_roots::responsible_instances,
            observation::{Observation, RecordedTree},
            process_info::command_of,
        },
        runtime::{
            liveness::{Liveness, LivenessCheck},
            tracked::may_record_arguments,
        },
    },
};

impl Ledger {
    /// Returns every tracked root with the processes that belong to it now, the longest-running
    /// first.
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
    /// If the ledger cannot be read. It is not an error if a process cannot be examined: its tree
    /// is reported as recorded.
    pub fn trees(&self) -> Result<Vec<TreeRecord>> {
        forest(self.store(), |_| true)
    }

    /// Returns the same for one task; empty if the task has no live process.
    ///
    /// # Errors
    ///
    /// Invalid input for a bad task id; if the ledger cannot be read.
    pub fn trees_of(&self, task_id: &str) -> Result<Vec<TreeRecord>> {
        let task = TaskId::new(task_id)?;
        forest(self.store(), |root| root.spec.task_id.as_ref() == Some(&task))
    }
}

/// A root, and the rows of descendants that passes recorded.
struct Rows<'a> {
    root: &'a ProcessRecord,
    below: Vec<&'a ProcessRecord>,
}

fn forest(store: &Store, wanted: impl Fn(&ProcessRecord) -> bool) -> Result<Vec<TreeRecord>> {
    let rows = store.live()?;
    let mut trees = group(&rows);
    trees.retain(|tree| wanted(tree.root));
    let seen = Machine::open(store).and_then(|machine| {
        let systems = machine.systems(store, &rows)?;
        let mut seen = machine.trees(store, &systems, &trees)?;
        let owners = machine.owners(store)?;
        for tree in &mut seen {
            tree.owner_alive = owners.get(&tree.root.owner).copied();
        }
        Ok(seen)
    });
    Ok(seen.unwrap_or_else(|error| {
        trees.iter().map(|tree| recorded(tree, &error.to_string())).collect()
    }))
}

/// Assigns descendants to their root; a descendant whose root has ended is a separate tree.
fn group(rows: &[ProcessRecord]) -> Vec<Rows<'_>> {
    let roots: HashSet<ProcessId> =
        rows.iter().filter(|row| row.spec.root.is_none()).map(|row| row.id).collect();
    let (below, tops): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row.spec.root.is_some_and(|root| roots.contains(&root)));
    let mut by_root: HashMap<Option<ProcessId>, Vec<&ProcessRecord>> = HashMap::new();
    for row in below {
        by_root.entry(row.spec.root).or_default().push(row);
    }
    tops.into_iter()
        .map(|root| Rows { below: by_root.remove(&Some(root.id)).unwrap_or_default(), root })
        .collect()
}

/// The machine at one moment.
struct Machine {
    proc: Proc,
    observer: Observer,
    snapshot: Snapshot,
}

impl Machine {
    fn open(store: &Store) -> Result<Self> {
        let (proc, here) = (Proc::open()?, current_pid_scope()?);
        let snapshot = proc.snapshot()?;
        Ok(Self { proc, observer: Observer { scope: here, uid: store.owner_uid() }, snapshot })
    }

    /// Returns the machine from the point of view of each owner of trees.
    ///
    /// A tree is shown as its owner would end it: the owner and its ancestors are no members, nor
    /// are processes for which other instances are responsible, or that were registered with the
    /// owner as separate tasks.
    fn systems(
        &self,
        store: &Store,
        rows: &[ProcessRecord],
    ) -> Result<HashMap<InstanceId, System<'_>>> {
        let here = self.observer.scope;
        let instances = responsible_instances(store, &self.proc, here, None)?;
        let of = |owner: InstanceId| rows.iter().filter(move |row| row.owner == owner);
        let foreign = |instance: &InstanceRecord, is_task: &dyn Fn(&ProcessRecord) -> bool| {
            let theirs = of(instance.id).filter(|row| is_task(row));
            let processes = theirs.map(ProcessRecord::pid).collect();
            Foreign { instance: instance.identity.pid, processes }
        };
        let owners: HashSet<InstanceId> = rows.iter().map(|row| row.owner).collect();
        let system = |owner: InstanceId| {
            let is_registered =
                |row: &ProcessRecord| row.spec.root.is_none() && row.spec.origin != Origin::Spawned;
            let all: Vec<Foreign> = (instances.iter())
                .map(|instance| {
                    if instance.id == owner {
                        foreign(instance, &is_registered)
                    } else {
                        foreign(instance, &|_| true)
                    }
                })
                .collect();
            let acting = instances.iter().find(|instance| instance.id == owner);
            let acting = acting.map(|instance| instance.identity.pid);
            (owner, System::new(&self.snapshot, acting, &all))
        };
        Ok(owners.into_iter().map(system).collect())
    }

    /// Returns which owners are alive and which are dead; those for which this is unknown are left
    /// out.
    fn owners(&self, store: &Store) -> Result<HashMap<InstanceId, bool>> {
        let all = store.instances_to_check()?;
        let liveness = LivenessCheck::new(store, &self.proc, self.observer.scope);
        let is_alive = |instance: &InstanceRecord| match liveness.of(instance, &all) {
            Liveness::Alive | Liveness::LockOutlives => Some((instance.id, true)),
            Liveness::Dead(_) => Some((instance.id, false)),
            Liveness::Unknown(_) => None,
        };
        Ok(all.iter().filter_map(is_alive).collect())
    }

    fn trees(
        &self,
        store: &Store,
        systems: &HashMap<InstanceId, System<'_>>,
        trees: &[Rows<'_>],
    ) -> Result<Vec<TreeRecord>> {
        let lives = |row: &&&ProcessRecord| {
            let probe = Pinned::probe(&self.proc, self.observer.scope, &row.spec.identity);
            matches!(probe, Probe::Alive(_))
        };
        let recorded_tree = |tree: &Rows<'_>| {
            let living = tree.below.iter().filter(lives);
            (tree.root.id, living.map(|row| (row.pid(), row.id)).collect())
        };
        let living: HashMap<ProcessId, HashMap<Pid, ProcessId>> =
            trees.iter().map(recorded_tree).collect();
        let recorded_trees = (trees.iter())
            .map(|tree| RecordedTree {
                root: tree.root,
                descendants: living[&tree.root.id].keys().copied().collect(),
            })
            .collect();
        let context = (store, &self.proc, self.observer);
        let observation =
            Observation::new(context, &self.snapshot, recorded_trees, |_| true, |_| false)?;
        let tree = |rows: &Rows<'_>| {
            let (root, ids) = (rows.root, &living[&rows.root.id]);
            self.tree(&systems[&root.owner], &observation, rows, ids)
        };
        Ok(trees.iter().map(tree).collect())
    }

    fn tree(
        &self,
        system: &System<'_>,
        observation: &Observation<'_>,
        rows: &Rows<'_>,
        ids: &HashMap<Pid, ProcessId>,
    ) -> TreeRecord {
        let root = rows.root;
        let alive = match Pinned::probe(&self.proc, self.observer.scope, &root.spec.identity) {
            Probe::Unknown(error) => return recorded(rows, &error.to_string()),
            Probe::Alive(_) => Some(true),
            Probe::Zombie(_) => Some(false),
            Probe::Gone => None,
        };
        let found = decide(system, &observation.facts(root, alive.is_some()), None);
        let members = self.describe(root, alive == Some(true), &found, ids);
        let is_others = |reason: &SuspectReason| matches!(reason, SuspectReason::OtherUser(_));
        let (others, on_terminals): (Vec<_>, Vec<_>) =
            found.suspects.iter().partition(|(_, reason)| is_others(reason));
        let suspects = on_terminals.into_iter().chain(others.into_iter().take(LISTED));
        TreeRecord {
            owner_alive: None,
            source: FigureSource::Live,
            obstacle: None,
            rss_bytes: Some(members.iter().filter_map(|member| member.rss_bytes).sum()),
            cpu: Some(members.iter().filter_map(|member| member.cpu).sum()),
            suspects: suspects.map(|(pid, reason)| self.suspect(root, *pid, *reason)).collect(),
            members,
            root: root.clone(),
        }
    }

    fn describe(
        &self,
        root: &ProcessRecord,
        alive: bool,
        found: &Membership<'_>,
        ids: &HashMap<Pid, ProcessId>,
    ) -> Vec<TreeMember> {
        let top = root.pid();
        let stat = self.snapshot.get(top).filter(|_| alive);
        let mut shown = vec![TreeMember {
            process: Some(root.id),
            parent: None,
            command: root.spec.command.clone(),
            alive,
            is_root: true,
            age: age(root.spec.identity.start_tick),
            ..member(top, Evidence::Root, stat)
        }];
        let arguments = may_record_arguments(&root.spec.command);
        let owner = self.observer.uid;
        let may_touch = |pid: Pid| owner == 0 || self.proc.is_of(pid, owner);
        let stats = found.members.keys().filter(|&&pid| pid != top && may_touch(pid));
        let stats =
            stats.filter_map(|&pid| self.snapshot.get(pid).filter(|stat| !stat.is_zombie()));
        for (stat, parent) in below(top, stats.collect()) {
            shown.push(TreeMember {
                process: ids.get(&stat.pid).copied(),
                parent: Some(parent),
                command: command_of(&self.proc, stat.pid, arguments),
                ..member(stat.pid, found.members[&stat.pid], Some(stat))
            });
        }
        shown
    }

    fn suspect(&self, root: &ProcessRecord, pid: Pid, reason: SuspectReason) -> Suspect {
        Suspect {
            task_id: root.spec.task_id.clone(),
            pid,
            command: command_of(&self.proc, pid, may_record_arguments(&root.spec.command)),
            why: reason.to_string(),
        }
    }
}

/// Returns each member with the member below which it is placed, in the order in which the tree is
/// drawn from top to bottom. A member whose parent is not a member is placed directly below the
/// root.
pub(super) fn below(top: Pid, stats: Vec<&Stat>) -> Vec<(&Stat, Pid)> {
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

/// Builds a member from its `stat`; without one it is gone.
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

/// Returns a tree as recorded in the ledger.
fn recorded(rows: &Rows<'_>, obstacle: &str) -> TreeRecord {
    let now = Millis::now();
    let Rows { root, below } = rows;
    let member = |row: &ProcessRecord, is_root: bool| TreeMember {
        process: Some(row.id),
        pid: row.pid(),
        parent: (!is_root).then_some(root.pid()),
        evidence: if is_root { Evidence::Root } else { Evidence::Recorded }.to_string(),
        command: row.spec.command.clone(),
        alive: true,
        is_root,
        age: now.since(row.spec.started_at),
        // The values recorded for a root are those of its whole tree.
        rss_bytes: row.peak_rss.filter(|_| !is_root),
        cpu: row.cpu,
    };
    let members: Vec<TreeMember> = [member(root, true)]
        .into_iter()
        .chain(below.iter().map(|row| member(row, false)))
        .collect();
    TreeRecord {
        owner_alive: None,
        source: FigureSource::Recorded,
        obstacle: Some(obstacle.to_owned()),
        rss_bytes: root.peak_rss,
        cpu: members.iter().filter_map(|member| member.cpu).reduce(|sum, cpu| sum + cpu),
        members,
        suspects: Vec::new(),
        root: (*root).clone(),
    }
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
