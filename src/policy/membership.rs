//! Decides which processes belong to a tree, which of them are left running, and which are only
//! suspects.
//!
//! [`decide`] is the only place that decides this: for an end, for a dry run, for what a dead root
//! left, for the health pass and the memory limits, and for `tree` and `ps`. It is a function of a
//! [`System`] (a snapshot, and which instances are responsible for which processes) and of the
//! [`TreeFacts`] of one tree. The callers differ in how they collect the facts, not in what they
//! conclude from them:
//!
//! - an end collects them again and again, while processes are dying. It passes on what its earlier
//!   scans have found ([`Known`]), so that a later scan decides the same: what was certain stays
//!   certain, and a process that was signalled is no longer spared;
//! - all other callers collect them once.
//!
//! The order of evidence: current facts come before what an earlier pass recorded. The token comes
//! last, since any process can copy it; it is read only from processes without other evidence. A
//! row alone proves nothing about a process that another instance is responsible for.

use std::collections::{BTreeMap, HashSet};

use super::{
    exemption::{Exempt, System},
    protection,
    suspects::SuspectReason,
};
use crate::{
    identity::Pid,
    model::{Evidence, Named, SpareReason},
    sys::snapshot::{Snapshot, Stat},
};

/// A member that was recorded, or found by an earlier scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) pid: Pid,
    pub(crate) evidence: Evidence,
    /// It was certainly a descendant of the root when it was found ([`descends`]).
    pub(crate) descends: bool,
    /// It was signalled: it is no longer spared, whatever program it runs by now.
    pub(crate) signalled: bool,
}

impl Known {
    /// Returns a process that an earlier pass has recorded.
    pub(crate) fn recorded(pid: Pid) -> Self {
        Self { pid, evidence: Evidence::Recorded, descends: false, signalled: false }
    }
}

/// What is known of one tree at the time of the snapshot. Every pid in it was verified to be the
/// recorded process.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeFacts {
    /// The root, if it exists: alive, or a zombie that still pins its pid and session number.
    pub(crate) root: Option<Pid>,
    /// The root is a descendant whose own root is gone: no caller has asked to end this very
    /// process, so it may be spared.
    pub(crate) may_spare_root: bool,
    /// The session, or in the foreground the process group, that the gate created. Its number may
    /// be reused by unrelated processes once no process of the tree pins it.
    pub(crate) session: Option<Pid>,
    /// The processes in its task cgroup. Listed after the snapshot was taken: a pid in both is the
    /// same process in both.
    pub(crate) task_cgroup: HashSet<Pid>,
    /// The keeper of the tree, while it is alive: not a member itself, but everything below it is.
    pub(crate) keeper: Option<Pid>,
    pub(crate) known: Vec<Known>,
    /// Processes of the row's uid that carry the token.
    pub(crate) token_holders: Vec<Pid>,
    /// Processes of another effective uid that carry the token, with that uid.
    pub(crate) other_holders: Vec<(Pid, u32)>,
    /// Processes that were left when this tree was ended before, by pid and start tick: no instance
    /// is responsible for them any more.
    pub(crate) left_before: HashSet<(Pid, u64)>,
    /// The job keeps its strays: everything but the root is left running.
    pub(crate) keeps_strays: bool,
    /// Processes that earlier scans of the same end spared: they stay spared, whatever becomes of
    /// their parents.
    pub(crate) spared_before: BTreeMap<Pid, SpareReason>,
    /// Processes that they exempted: they stay exempt, even after the process that showed that the
    /// acting process is within the tree has died.
    pub(crate) exempt_before: HashSet<Pid>,
    /// Processes that they found on a terminal: they stay suspects, even after this very end has
    /// killed the process that used the terminal.
    pub(crate) on_terminal_before: HashSet<Pid>,
}

/// A process that is left running on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spared {
    pub(crate) evidence: Evidence,
    pub(crate) why: SpareReason,
    /// Whether it would be ended otherwise. If it is only a suspect or a descendant of one, it is
    /// no evidence for other processes.
    pub(crate) is_member: bool,
}

/// The processes of one tree.
#[derive(Debug)]
pub(crate) struct Membership<'a> {
    /// The processes that are ended.
    pub(crate) members: BTreeMap<Pid, Evidence>,
    /// The processes that are left running on purpose.
    pub(crate) spared: BTreeMap<Pid, Spared>,
    /// The processes that may belong to the tree, and are left running.
    pub(crate) suspects: BTreeMap<Pid, SuspectReason>,
    /// The processes that must not be touched on behalf of this tree.
    pub(crate) exempt: Exempt<'a>,
    /// The keeper, if being below it is evidence.
    pub(crate) keeper: Option<Pid>,
    /// The session, if a process of the tree pins its number.
    pub(crate) session: Option<Pid>,
}

impl Membership<'_> {
    /// Returns whether a process of the tree was left running before. Such a tree cannot be ended
    /// by one action on all its members.
    pub(crate) fn leaves_some_from_before(&self) -> bool {
        self.spared.values().any(|spared| spared.why == SpareReason::LeftBefore)
    }

    /// Removes the processes that are in other trees of the same call: each process is in one tree.
    pub(crate) fn without(&mut self, other_trees: impl Fn(Pid) -> bool) {
        self.members.retain(|pid, _| !other_trees(*pid));
        self.spared.retain(|pid, _| !other_trees(*pid));
        self.suspects.retain(|pid, _| !other_trees(*pid));
    }
}

/// Returns the part of a process that has a protected name.
pub(crate) type Protects<'a> = &'a mut dyn FnMut(&Stat) -> Option<Named>;

/// Decides which processes belong to a tree. `protects` is `None` if no name is protected.
pub(crate) fn decide<'a>(
    system: &'a System<'_>,
    tree: &TreeFacts,
    protects: Option<Protects<'_>>,
) -> Membership<'a> {
    let mut start = Start::of(system, tree);
    let mut found = find(system, &start);
    if start.session.is_none() {
        // A member that was found by other evidence pins the session as well: the next scan would
        // know it.
        start.session = start.pinned(system.snapshot, found.members.keys().copied());
        if start.session.is_some() {
            found = find(system, &start);
        }
    }
    spare(system, tree, protects, &mut found);
    let others = tree.other_holders.iter().filter(|(pid, _)| {
        let is_decided = found.members.contains_key(pid) || found.spared.contains_key(pid);
        !is_decided && !found.exempt.contains(*pid)
    });
    found.suspects.extend(others.map(|&(pid, uid)| (pid, SuspectReason::OtherUser(uid))));
    found
}

/// Finds the members, and the processes on a terminal that carry the token.
fn find<'a>(system: &'a System<'_>, start: &Start<'_>) -> Membership<'a> {
    let (snapshot, tree) = (system.snapshot, start.tree);
    // 1. What must not be touched, and whether the keeper is evidence.
    let kin = system.kin(|stat| start.contains(stat));
    let inside = system.instances_that(|chain| start.descends(&kin, chain));
    let keeper = tree.keeper.filter(|keeper| !system.has_outside_below(*keeper, &inside));
    let passed_on = tree.task_cgroup.iter().chain(&tree.token_holders).copied();
    let mut exempt = system.exempt(tree.root, kin, inside, passed_on);
    exempt.keep(&tree.exempt_before);
    // 2. The members, in the order of the evidence.
    let mut found = Closure::of(snapshot, &exempt);
    found.add(tree.root, Evidence::Root);
    found.add(tree.task_cgroup.iter().copied(), Evidence::TaskCgroup);
    for known in start.known.iter().filter(|known| known.evidence != Evidence::Recorded) {
        found.add([known.pid], known.evidence);
    }
    found.add_session(start.session);
    found.add_descendants();
    if let Some(keeper) = keeper {
        found.add(snapshot.children(keeper).map(|stat| stat.pid), Evidence::Keeper);
        found.add_descendants();
    }
    let recorded = start.known.iter().filter(|known| known.evidence == Evidence::Recorded);
    found.add(recorded.map(|known| known.pid), Evidence::Recorded);
    found.add_descendants();
    let (on_terminal, plain): (Vec<Pid>, Vec<Pid>) = tree.token_holders.iter().partition(|&&pid| {
        tree.on_terminal_before.contains(&pid) || serves_a_terminal(snapshot, pid)
    });
    found.add(plain, Evidence::Token);
    found.add_descendants();
    // 3. The processes that a person may be using.
    let members = found.members;
    let is_open = |pid: &Pid| !members.contains_key(pid) && !exempt.contains(*pid);
    let suspects =
        on_terminal.into_iter().filter(is_open).map(|pid| (pid, SuspectReason::Terminal));
    let suspects = suspects.collect();
    let session = start.session;
    Membership { members, spared: BTreeMap::new(), suspects, exempt, keeper, session }
}

/// Moves the processes that are left running from members and suspects to the spared ones.
fn spare(
    system: &System<'_>,
    tree: &TreeFacts,
    mut protects: Option<Protects<'_>>,
    found: &mut Membership<'_>,
) {
    let may_spare = protects.is_some() || !tree.left_before.is_empty() || tree.keeps_strays;
    if !may_spare && tree.spared_before.is_empty() {
        return;
    }
    let snapshot = system.snapshot;
    let judge = |pid: Pid| {
        let stat = snapshot.get(pid)?;
        if tree.left_before.contains(&(pid, stat.start_tick)) {
            return Some(SpareReason::LeftBefore);
        }
        if tree.keeps_strays {
            return Some(SpareReason::KeepsStrays);
        }
        protects.as_mut().and_then(|protects| protects(stat)).map(SpareReason::Protected)
    };
    let root = tree.root.filter(|_| !tree.may_spare_root);
    let candidates: Vec<Pid> = found.members.keys().chain(found.suspects.keys()).copied().collect();
    let before = &tree.spared_before;
    let mut spared = protection::spared(snapshot, root, candidates, &found.exempt, before, judge);
    for known in tree.known.iter().filter(|known| known.signalled) {
        spared.remove(&known.pid);
    }
    let parent = |pid| Pid::new(i64::from(snapshot.get(pid)?.parent));
    for (pid, why) in spared {
        let carries = found.suspects.remove(&pid).is_some();
        let member = found.members.remove(&pid);
        let evidence = match member {
            Some(evidence) => evidence,
            None if carries => Evidence::Token,
            None => Evidence::ChildOf(parent(pid).unwrap_or(pid)),
        };
        found.spared.insert(pid, Spared { evidence, why, is_member: member.is_some() });
    }
}

/// Returns the processes that certainly descend from the root, according to their parents, its
/// session, or an earlier scan.
///
/// A task cgroup, a token, a keeper, or a row of an earlier pass does not prove descent: a task
/// that restarts its host passes all of them on to the new host, which must not count as a
/// descendant. `session` is that of the [`Membership`].
pub(crate) fn descendants(
    system: &System<'_>,
    tree: &TreeFacts,
    session: Option<Pid>,
) -> HashSet<Pid> {
    let start = Start { session, ..Start::of(system, tree) };
    let kin = Exempt::only(system.kin(|stat| start.contains(stat)));
    let mut found = Closure::of(system.snapshot, &kin);
    found.add(tree.root, Evidence::Root);
    let known = start.known.iter().filter(|known| known.descends);
    found.add(known.map(|known| known.pid), Evidence::Recorded);
    found.add_session(start.session);
    found.add_descendants();
    found.members.into_keys().collect()
}

/// The processes that a tree's closure begins with.
struct Start<'a> {
    tree: &'a TreeFacts,
    /// The known members, without rows that prove nothing: those of other instances' processes, of
    /// the acting process and of its ancestors.
    known: Vec<&'a Known>,
    /// The session, while a process of the tree pins its number.
    session: Option<Pid>,
}

impl<'a> Start<'a> {
    fn of(system: &System<'_>, tree: &'a TreeFacts) -> Self {
        let counts = |known: &&Known| {
            known.evidence != Evidence::Recorded || !system.is_accounted_for(known.pid)
        };
        let known: Vec<&Known> = tree.known.iter().filter(counts).collect();
        let verified = tree.root.into_iter().chain(known.iter().map(|known| known.pid));
        let mut start = Self { tree, known: Vec::new(), session: None };
        start.session = start.pinned(system.snapshot, verified);
        Self { known, ..start }
    }

    /// Returns the session, if one of these processes pins its number: a process in the session, or
    /// the process whose pid is that number, whichever session it is in by now.
    fn pinned(&self, snapshot: &Snapshot, processes: impl IntoIterator<Item = Pid>) -> Option<Pid> {
        let session = self.tree.session?;
        let is_in = |pid| snapshot.get(pid).is_some_and(|stat| is_in(session, stat));
        processes.into_iter().any(|pid| pid == session || is_in(pid)).then_some(session)
    }

    fn is_in_session(&self, stat: &Stat) -> bool {
        self.session.is_some_and(|session| is_in(session, stat))
    }

    fn contains(&self, stat: &Stat) -> bool {
        let tree = self.tree;
        tree.root == Some(stat.pid)
            || self.known.iter().any(|known| known.pid == stat.pid)
            || tree.task_cgroup.contains(&stat.pid)
            || tree.token_holders.contains(&stat.pid)
            || self.is_in_session(stat)
            || tree.keeper.is_some_and(|keeper| stat.parent == keeper.get())
    }

    /// Returns whether the first of `chain`, a process with its ancestors, is in [`descendants`].
    fn descends(&self, kin: &HashSet<Pid>, chain: &[&Stat]) -> bool {
        (chain.iter()).take_while(|stat| !stat.is_kernel_thread() && !kin.contains(&stat.pid)).any(
            |stat| {
                let is_known = |known: &&Known| known.descends && known.pid == stat.pid;
                self.tree.root == Some(stat.pid)
                    || self.is_in_session(stat)
                    || self.known.iter().any(is_known)
            },
        )
    }
}

/// Returns whether a process is in the session or the process group with this number.
fn is_in(session: Pid, stat: &Stat) -> bool {
    stat.session == session.get() || stat.group == session.get()
}

/// Members, and all their descendants.
struct Closure<'a> {
    snapshot: &'a Snapshot,
    exempt: &'a Exempt<'a>,
    members: BTreeMap<Pid, Evidence>,
    open: Vec<Pid>,
}

impl<'a> Closure<'a> {
    fn of(snapshot: &'a Snapshot, exempt: &'a Exempt<'a>) -> Self {
        Self { snapshot, exempt, members: BTreeMap::new(), open: Vec::new() }
    }

    fn add(&mut self, pids: impl IntoIterator<Item = Pid>, evidence: Evidence) {
        for pid in pids {
            let there = self.snapshot.get(pid).is_some_and(|stat| !stat.is_kernel_thread());
            if there && !self.exempt.contains(pid) && !self.members.contains_key(&pid) {
                self.members.insert(pid, evidence);
                self.open.push(pid);
            }
        }
    }

    fn add_session(&mut self, session: Option<Pid>) {
        let Some(session) = session else { return };
        self.add(self.snapshot.in_session(session).map(|stat| stat.pid), Evidence::Session);
        self.add(self.snapshot.in_group(session).map(|stat| stat.pid), Evidence::Group);
    }

    fn add_descendants(&mut self) {
        while let Some(parent) = self.open.pop() {
            let children = self.snapshot.children(parent).map(|child| child.pid);
            self.add(children, Evidence::ChildOf(parent));
        }
    }
}

/// Returns whether the process or a descendant has a controlling terminal: a `tmux` server has none
/// itself, but its windows have.
fn serves_a_terminal(snapshot: &Snapshot, pid: Pid) -> bool {
    let on_terminal = |pid| snapshot.get(pid).is_some_and(|stat| stat.terminal != 0);
    on_terminal(pid) || snapshot.below(pid).into_iter().any(on_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::exemption::Foreign,
        sys::snapshot::tests::{pid, stat},
    };

    fn machine() -> Snapshot {
        // 10 is a root with a session; 11 its child, 12 a grandchild in a session of its own; 20 an
        // unrelated process; 30 a daemon that was reparented to init and carries the token; 31 its
        // child.
        snapshot(&[
            (1, 0, 1),
            (10, 1, 10),
            (11, 10, 10),
            (12, 11, 12),
            (20, 1, 20),
            (30, 1, 30),
            (31, 30, 30),
        ])
    }

    fn snapshot(all: &[(u32, u32, u32)]) -> Snapshot {
        Snapshot::new(all.iter().map(|&(number, parent, session)| stat(number, parent, session)))
    }

    fn on_terminal(snapshot: &Snapshot, number: u32) -> Snapshot {
        Snapshot::new(snapshot.iter().cloned().map(|mut stat| {
            stat.terminal = if stat.pid == pid(number) { 34817 } else { 0 };
            stat
        }))
    }

    /// Returns a tree with this root and the session of the same number.
    fn tree(root: u32) -> TreeFacts {
        TreeFacts { root: Some(pid(root)), session: Some(pid(root)), ..TreeFacts::default() }
    }

    fn foreign(instance: u32, processes: &[u32]) -> Foreign {
        let processes = processes.iter().map(|&number| pid(number)).collect();
        Foreign { instance: pid(instance), processes }
    }

    /// Decides for an acting process outside of the machine.
    fn found(snapshot: &Snapshot, tree: &TreeFacts, others: &[Foreign]) -> BTreeMap<Pid, Evidence> {
        decide(&System::new(snapshot, None, others), tree, None).members
    }

    fn pids(found: &BTreeMap<Pid, Evidence>) -> Vec<u32> {
        found.keys().map(|pid| pid.get()).collect()
    }

    fn members(snapshot: &Snapshot, tree: &TreeFacts) -> Vec<u32> {
        pids(&found(snapshot, tree, &[]))
    }

    fn suspects(snapshot: &Snapshot, tree: &TreeFacts) -> Vec<(u32, SuspectReason)> {
        let found = decide(&System::new(snapshot, None, &[]), tree, None).suspects;
        found.into_iter().map(|(pid, reason)| (pid.get(), reason)).collect()
    }

    #[test]
    fn a_registered_root_has_only_its_descendants() {
        let tree = TreeFacts { session: None, ..tree(10) };
        assert_eq!(members(&machine(), &tree), [10, 11, 12]);
    }

    #[test]
    fn a_session_counts_when_its_root_is_gone_and_a_process_pins_it() {
        let snapshot = snapshot(&[(1, 0, 1), (11, 1, 10), (12, 11, 12), (13, 1, 10)]);
        let unpinned = TreeFacts { root: None, ..tree(10) };
        assert_eq!(members(&snapshot, &unpinned), [0_u32; 0], "the number may have been reused");
        let pinned = TreeFacts { known: vec![Known::recorded(pid(11))], ..unpinned };
        let found = found(&snapshot, &pinned, &[]);
        assert_eq!(pids(&found), [11, 12, 13]);
        assert_eq!(found[&pid(11)], Evidence::Session, "it says more than the row");
        assert_eq!(found[&pid(12)], Evidence::ChildOf(pid(11)));
    }

    #[test]
    fn a_root_that_left_its_group_still_pins_the_number() {
        let mut orphan = stat(11, 1, 1);
        orphan.group = 10;
        let snapshot = Snapshot::new([stat(1, 0, 1), stat(10, 1, 7), orphan]);
        let found = found(&snapshot, &tree(10), &[]);
        assert_eq!(found[&pid(11)], Evidence::Group);
    }

    #[test]
    fn the_token_finds_a_daemon_and_its_descendants() {
        let tree = TreeFacts { token_holders: vec![pid(30)], ..TreeFacts::default() };
        assert_eq!(members(&machine(), &tree), [30, 31]);
    }

    #[test]
    fn w3_token_alone_on_a_terminal_is_a_suspect() {
        let snapshot = on_terminal(&machine(), 30);
        let tree = TreeFacts { token_holders: vec![pid(30)], ..tree(10) };
        assert_eq!(members(&snapshot, &tree), [10, 11, 12]);
        assert_eq!(suspects(&snapshot, &tree), [(30, SuspectReason::Terminal)]);
    }

    #[test]
    fn w3_a_tmux_server_with_windows_is_a_suspect() {
        let snapshot = on_terminal(&machine(), 31);
        let tree = TreeFacts { token_holders: vec![pid(30)], ..TreeFacts::default() };
        assert_eq!(members(&snapshot, &tree), [0_u32; 0]);
        assert_eq!(suspects(&snapshot, &tree), [(30, SuspectReason::Terminal)]);
        // A process that an earlier pass found below the root belongs to the task, with or without
        // a terminal.
        let recorded = TreeFacts { known: vec![Known::recorded(pid(30))], ..tree };
        assert_eq!(members(&snapshot, &recorded), [30, 31]);
    }

    #[test]
    fn another_users_process_with_the_token_is_a_suspect_unless_it_descends() {
        let tree = TreeFacts { other_holders: vec![(pid(11), 7), (pid(20), 7)], ..tree(10) };
        assert_eq!(members(&machine(), &tree), [10, 11, 12]);
        assert_eq!(suspects(&machine(), &tree), [(20, SuspectReason::OtherUser(7))]);
    }

    #[test]
    fn a_root_that_the_acting_process_started_is_a_member() {
        let snapshot = machine();
        let system = System::new(&snapshot, Some(pid(10)), &[]);
        assert_eq!(pids(&decide(&system, &tree(11), None).members), [11, 12]);
    }

    #[test]
    fn invariant_13_within_the_tree_descendants_of_the_acting_process_are_not_members() {
        // 12 is a child of the acting process, and carries the token that 11 inherited.
        let tree = TreeFacts { token_holders: vec![pid(12)], ..tree(10) };
        let snapshot = machine();
        let system = System::new(&snapshot, Some(pid(11)), &[]);
        assert_eq!(pids(&decide(&system, &tree, None).members), [0_u32; 0]);
    }

    /// 10 is a root. Its child 11 has started a daemon 30, whose child 31 has started a new host,
    /// 32, with its program 33: all of these have lost their parents, and carry the token.
    fn new_host() -> (Snapshot, Vec<Foreign>) {
        let all = [
            (1, 0, 1),
            (10, 1, 10),
            (11, 10, 10),
            (30, 1, 30),
            (31, 30, 30),
            (32, 31, 32),
            (33, 32, 33),
        ];
        (snapshot(&all), vec![foreign(32, &[33])])
    }

    #[test]
    fn invariant_13_a_new_host_is_spared_by_every_scan() {
        let (snapshot, others) = new_host();
        let system = System::new(&snapshot, Some(pid(1)), &others);
        let first = TreeFacts { token_holders: [30, 31, 32, 33].map(pid).to_vec(), ..tree(10) };
        let found = decide(&system, &first, None);
        assert_eq!(pids(&found.members), [10, 11, 30, 31]);
        // The second scan knows what the first one found, and does not read the tokens of those
        // processes.
        let certain = descendants(&system, &first, found.session);
        let known = (found.members.iter())
            .map(|(&pid, &evidence)| Known {
                pid,
                evidence,
                descends: certain.contains(&pid),
                signalled: true,
            })
            .collect();
        let second = TreeFacts { known, token_holders: [32, 33].map(pid).to_vec(), ..first };
        assert_eq!(pids(&decide(&system, &second, None).members), [10, 11, 30, 31]);
    }

    #[test]
    fn another_instance_in_the_task_cgroup_is_exempt_with_what_it_started() {
        let (snapshot, others) = new_host();
        let all = [10, 11, 30, 31, 32, 33].map(pid);
        let tree = TreeFacts { task_cgroup: all.into_iter().collect(), ..tree(10) };
        assert_eq!(pids(&found(&snapshot, &tree, &others)), [10, 11, 30, 31]);
        // Its program is exempt even before its row is seen.
        assert_eq!(pids(&found(&snapshot, &tree, &[foreign(32, &[])])), [10, 11, 30, 31]);
        // An instance that descends from the root is a part of the tree.
        let inside = TreeFacts { root: Some(pid(30)), ..tree };
        assert_eq!(pids(&found(&snapshot, &inside, &others)), [10, 11, 30, 31, 32, 33]);
    }

    #[test]
    fn a_row_alone_says_nothing_about_a_process_of_another_instance() {
        let known = vec![Known::recorded(pid(20)), Known::recorded(pid(30))];
        let tree = TreeFacts { known, ..tree(10) };
        let others = [foreign(12, &[30])];
        let found = found(&machine(), &tree, &others);
        assert_eq!(pids(&found), [10, 11, 12, 20], "12 is an instance below the root itself");
    }

    #[test]
    fn a_registered_root_below_another_root_is_a_task_of_its_own() {
        let others = [foreign(1, &[11])];
        assert_eq!(pids(&found(&machine(), &tree(10), &others)), [10]);
        assert_eq!(
            pids(&found(&machine(), &TreeFacts { session: None, ..tree(11) }, &others)),
            [11, 12]
        );
    }

    /// 5 is a keeper, 10 its root, 12 a daemon that was orphaned to it, 13 a new host that was
    /// orphaned to it too, 14 the new host's program.
    fn below_a_keeper() -> Snapshot {
        snapshot(&[
            (1, 0, 1),
            (5, 1, 5),
            (10, 5, 10),
            (11, 10, 10),
            (12, 5, 12),
            (13, 5, 13),
            (14, 13, 14),
        ])
    }

    #[test]
    fn all_descendants_of_a_keeper_are_members_and_the_keeper_is_not() {
        let tree = TreeFacts { keeper: Some(pid(5)), ..tree(10) };
        let found = found(&below_a_keeper(), &tree, &[]);
        assert_eq!(pids(&found), [10, 11, 12, 13, 14]);
        assert_eq!(found[&pid(10)], Evidence::Root);
        assert_eq!(found[&pid(12)], Evidence::Keeper);
    }

    #[test]
    fn invariant_13_below_a_new_host_the_keeper_is_no_evidence() {
        let tree = TreeFacts { keeper: Some(pid(5)), ..tree(10) };
        let counts = |instance: u32| {
            let (snapshot, others) = (below_a_keeper(), [foreign(instance, &[])]);
            decide(&System::new(&snapshot, None, &others), &tree, None).keeper.is_some()
        };
        assert!(!counts(13), "it is a child of the keeper only");
        assert!(counts(11), "it is the root's child, and goes with it");
        assert!(counts(1), "it is not below the keeper");
    }

    #[test]
    fn a_kernel_thread_is_never_a_member() {
        let mut thread = stat(40, 2, 0);
        thread.flags = 0x0020_0000;
        assert_eq!(members(&Snapshot::new([thread]), &tree(40)), [0_u32; 0]);
    }

    #[test]
    fn a_process_that_was_left_before_is_left_again_with_its_descendants() {
        let tree = TreeFacts { left_before: HashSet::from([(pid(11), 11)]), ..tree(10) };
        let snapshot = machine();
        let system = System::new(&snapshot, None, &[]);
        let found = decide(&system, &tree, None);
        assert_eq!(pids(&found.members), [10]);
        assert_eq!(found.spared[&pid(11)].why, SpareReason::LeftBefore);
        let Spared { evidence, why, .. } = &found.spared[&pid(12)];
        assert_eq!(
            (*evidence, why.to_string()),
            (Evidence::ChildOf(pid(11)), "it is below process 11: it was left before".to_owned())
        );
    }

    #[test]
    fn a_signalled_process_is_no_longer_spared() {
        let snapshot = machine();
        let system = System::new(&snapshot, None, &[]);
        let spares = |signalled: bool| {
            let evidence = Evidence::Session;
            let known = vec![Known { pid: pid(11), evidence, descends: true, signalled }];
            let mut protects = |stat: &Stat| {
                let named = || Named { part: "program", name: "named".to_owned() };
                (stat.pid == pid(11)).then(named)
            };
            let tree = TreeFacts { known, ..tree(10) };
            decide(&system, &tree, Some(&mut protects)).spared.contains_key(&pid(11))
        };
        assert!(spares(false) && !spares(true));
    }
}
