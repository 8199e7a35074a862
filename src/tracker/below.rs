//! What belongs to living roots: recorded with memory and CPU time, and counted against their limits.
//!
//! Members are found as an end would find them: below the root, in its session, below a recorded descendant. Environments are
//! read for the token only where a limit on memory asks for it, and only of what is younger than the root and known
//! otherwise to no tree: some 10 µs for each. What is found is recorded, so that it is known the next time, and after a crash.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    ending::{command_of, protected},
    entry::Root,
    shared::Shared,
    tie::pin,
};
use crate::{
    identity::Pid,
    os::{
        Pinned,
        procfs::{age, cpu_time},
    },
    plan::{
        limits::passed,
        members::{Evidence, TreeView, members},
        observe::{Snapshot, Stat},
        protect,
    },
    record::{
        Containment, EndReason, Limits, Millis, NewProcess, Origin, ProcessRecord, Report, Sighting,
    },
    state::State,
};

/// A row of ours with its process, alive.
type Living = (ProcessRecord, Pinned);

/// All living rows of ours, in one snapshot.
struct Scene<'a> {
    snapshot: Snapshot,
    alive: &'a [Living],
    /// Who has a row, by pid and start tick.
    known: HashSet<(Pid, u64)>,
    /// Roots, and the acting process with its ancestors: what is below one of them belongs to that one.
    apart: HashSet<Pid>,
    carriers: HashMap<Uuid, Vec<Pid>>,
    /// By the tokens of their trees.
    keepers: HashMap<Uuid, Pid>,
}

impl Shared {
    /// Records what belongs to each living root, and ends the trees that have passed a limit or had survived.
    pub(super) fn look_below(self: &Arc<Self>, alive: &[Living], report: &mut Report) {
        if alive.is_empty() {
            return;
        }
        let scene = match self.scene(alive) {
            Ok(scene) => scene,
            Err(error) => return report.errors.push(error.to_string()),
        };
        let mut sightings = Vec::new();
        let mut found = Vec::new();
        let mut due = Vec::new();
        for (row, pinned) in alive {
            let mut rss = rss(&scene.snapshot, row.identity.pid);
            if row.root.is_none() {
                let below = self.below(&scene, row, pinned);
                rss += below.iter().map(|(stat, _)| stat.rss_bytes).sum::<u64>();
                found.extend(self.new_rows(&scene, row, &below));
                if let Some((reason, rule)) = passed(&row.limits, Root::from(row).age(), rss) {
                    due.push((row.id, reason, rule));
                } else if row.state == State::Survived || could_not_be_judged(row) {
                    let rule = "it had survived an earlier attempt".into();
                    due.push((row.id, EndReason::Terminated, rule));
                }
            }
            sightings.push(Sighting { process: row.id, rss, cpu: cpu_time(&pinned.stat) });
        }
        let written = self.store.observe(&sightings).and_then(|_| match found.as_slice() {
            [] => Ok(()),
            found => self.store.admit(&self.place(), found).map(|_| ()),
        });
        if let Err(error) = written {
            report.errors.push(error.to_string());
        }
        self.end_due(due, report);
    }

    fn scene<'a>(&self, alive: &'a [Living]) -> crate::error::Result<Scene<'a>> {
        let roots = alive.iter().filter(|(row, _)| row.root.is_none());
        let own = self.own_pid();
        let apart = roots.map(|(row, _)| row.identity.pid).chain([own]);
        let mut scene = Scene {
            snapshot: self.proc.snapshot()?,
            alive,
            known: (alive.iter())
                .map(|(row, _)| (row.identity.pid, row.identity.start_tick))
                .collect(),
            apart: apart.chain(self.proc.ancestors(own)).collect(),
            carriers: HashMap::new(),
            keepers: HashMap::new(),
        };
        scene.keepers = self.telling_keepers(&scene.snapshot);
        scene.carriers = self.carriers(&scene);
        Ok(scene)
    }

    /// Who carries the token of a root that has a limit on memory, and is in no tree by other evidence.
    fn carriers(&self, scene: &Scene<'_>) -> HashMap<Uuid, Vec<Pid>> {
        let limited = || {
            let roots = scene.alive.iter().map(|(row, _)| row);
            roots.filter(|row| row.root.is_none() && row.limits.max_rss.is_some())
        };
        let wanted: HashMap<Uuid, u32> =
            limited().filter_map(|row| Some((row.token?, row.uid))).collect();
        let mut carriers: HashMap<Uuid, Vec<Pid>> = HashMap::new();
        let Some(oldest) = limited().map(|row| row.identity.start_tick).min() else {
            return carriers;
        };
        let young = scene.snapshot.iter().filter(|stat| {
            stat.start_tick >= oldest && !stat.is_kernel_thread() && !stat.is_zombie()
        });
        for stat in young.filter(|stat| !scene.known.contains(&(stat.pid, stat.start_tick))) {
            for token in self.proc.tokens(stat.pid).unwrap_or_default() {
                let is_of = |uid: u32| self.proc.uid(stat.pid).ok().flatten() == Some(uid);
                if wanted.get(&token).is_some_and(|&uid| is_of(uid)) {
                    carriers.entry(token).or_default().push(stat.pid);
                }
            }
        }
        carriers
    }

    /// The members of a root's tree but for itself and what is protected.
    fn below<'s>(
        &self,
        scene: &'s Scene<'_>,
        root: &ProcessRecord,
        pinned: &Pinned,
    ) -> Vec<(&'s Stat, Evidence)> {
        let own = root.identity.pid;
        let mut exempt = scene.apart.clone();
        exempt.remove(&own);
        let mut view = view(scene, root, pinned);
        view.leaf = self.in_leaf(root, &scene.snapshot);
        // A root of its own that runs in this leaf, as one that was registered: what is below it is its own too.
        let others: Vec<Pid> = exempt.intersection(&view.leaf).copied().collect();
        exempt.extend(others.into_iter().flat_map(|pid| scene.snapshot.below(pid)));
        let mut found = members(&scene.snapshot, &view, &exempt).members;
        self.without_protected(scene, root, &mut found, &exempt);
        let others = found.into_iter().filter(|(pid, _)| *pid != own);
        others.filter_map(|(pid, evidence)| Some((scene.snapshot.get(pid)?, evidence))).collect()
    }

    /// What would be left is not recorded: by its row somebody who protects nothing would end it.
    fn without_protected(
        &self,
        scene: &Scene<'_>,
        root: &ProcessRecord,
        found: &mut BTreeMap<Pid, Evidence>,
        exempt: &HashSet<Pid>,
    ) {
        let job = self.entry(root.id).map(|entry| Arc::clone(&entry.strays.protected));
        let names = [self.options.protected.as_slice(), job.as_deref().unwrap_or_default()];
        if names.iter().all(|names| names.is_empty()) {
            return;
        }
        let candidates: Vec<Pid> = found.keys().copied().collect();
        let root = Some(root.identity.pid);
        let left = protect::left(&scene.snapshot, root, candidates, exempt, |pid| {
            protected(&self.proc, pid, &names)
        });
        found.retain(|pid, _| !left.contains_key(pid));
    }

    /// Rows for members that have none yet. What leaves the session and wipes its environment later is known then.
    fn new_rows(
        &self,
        scene: &Scene<'_>,
        root: &ProcessRecord,
        below: &[(&Stat, Evidence)],
    ) -> Vec<NewProcess> {
        let new = below.iter().filter(|(seen, _)| {
            !seen.is_zombie() && !scene.known.contains(&(seen.pid, seen.start_tick))
        });
        new.filter_map(|(seen, evidence)| self.new_row(root, &scene.snapshot, seen, *evidence))
            .collect()
    }

    pub(super) fn new_row(
        &self,
        root: &ProcessRecord,
        snapshot: &Snapshot,
        seen: &Stat,
        evidence: Evidence,
    ) -> Option<NewProcess> {
        let tree = self.root_of(root);
        let pinned = pin(&self.proc, self.place(), snapshot, seen, &tree, evidence, |_| true)?;
        let uid = self.proc.uid(seen.pid).ok().flatten().unwrap_or(root.uid);
        if !self.observer.may_touch(uid) {
            return None;
        }
        Some(NewProcess {
            task: root.task.clone(),
            owner: self.instance,
            root: Some(root.id),
            origin: Origin::Descendant,
            token: None,
            identity: pinned.identity,
            session: None,
            cgroup: None,
            containment: Containment::None,
            command: command_of(&self.proc, seen.pid, tree.arguments),
            cwd: None,
            uid,
            limits: Limits { max_runtime: None, max_rss: None, ..root.limits },
            started_at: Millis::now().minus(age(seen.start_tick)),
            peak_rss: Some(seen.rss_bytes),
            cpu: Some(cpu_time(seen)),
            evidence: Some(evidence.to_string()),
            state: State::Running,
            allow_survivor: true,
        })
    }
}

/// What of a root's tree is certain in the snapshot.
fn view(scene: &Scene<'_>, root: &ProcessRecord, pinned: &Pinned) -> TreeView {
    // Only what still holds its number now, after the snapshot, held it while the snapshot was taken.
    let holds = |(_, pinned): &&Living| pinned.holds_its_number();
    let recorded = scene.alive.iter().filter(|(row, _)| row.root == Some(root.id)).filter(holds);
    let known = recorded.map(|(row, _)| (row.identity.pid, Evidence::Recorded)).collect();
    let mut view = TreeView { known, ..TreeView::default() };
    if pinned.holds_its_number() {
        view.root = Some(root.identity.pid);
        view.session = root.session;
        view.group = root.session;
    }
    view.keeper = root.token.and_then(|token| scene.keepers.get(&token).copied());
    if let Some(carriers) = root.token.and_then(|token| scene.carriers.get(&token)) {
        view.carriers.clone_from(carriers);
    }
    view
}

fn rss(snapshot: &Snapshot, pid: Pid) -> u64 {
    snapshot.get(pid).map_or(0, |stat| stat.rss_bytes)
}

/// Whether it was to be ended, and nobody could tell whether it was still the same: nothing was sent to it.
fn could_not_be_judged(row: &ProcessRecord) -> bool {
    row.state == State::Running && row.last_error.is_some() && !row.limits.survive
}
