//! Which processes belong to a root, and by what evidence.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// The evidence that links a process to a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It is the root.
    Root,
    /// It is in the cgroup leaf that was created for the root.
    Leaf,
    /// It is in the session that the gate created for the root.
    Session,
    /// It is in the foreground process group that the gate created for the root.
    Group,
    /// Its parent is a member.
    ChildOf(Pid),
    /// It was orphaned below the keeper that the gate started for the root.
    Keeper,
    /// It carries the root's token.
    Token,
    /// An earlier pass recorded it below the root.
    Recorded,
    /// The kernel reported that it was forked by a member.
    ForkEvent,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("identity"),
            Self::Leaf => f.write_str("cgroup"),
            Self::Session => f.write_str("session"),
            Self::Group => f.write_str("process group"),
            Self::ChildOf(parent) => write!(f, "child of {parent}"),
            Self::Keeper => f.write_str("below its keeper"),
            Self::Token => f.write_str("token"),
            Self::Recorded => f.write_str("recorded descendant"),
            Self::ForkEvent => f.write_str("forked below it, as the kernel reported"),
        }
    }
}

impl Evidence {
    /// Returns it as two numbers, for the file that a keeper leaves.
    pub(crate) fn code(self) -> (u8, u32) {
        match self {
            Self::Root => (1, 0),
            Self::Leaf => (2, 0),
            Self::Session => (3, 0),
            Self::Group => (4, 0),
            Self::ChildOf(parent) => (5, parent.get()),
            Self::Keeper => (6, 0),
            Self::Token => (7, 0),
            Self::Recorded => (8, 0),
            Self::ForkEvent => (9, 0),
        }
    }

    /// Returns the evidence with this code; `None` where there is none.
    pub(crate) fn from_code(code: u8, pid: Option<Pid>) -> Option<Self> {
        Some(match code {
            1 => Self::Root,
            2 => Self::Leaf,
            3 => Self::Session,
            4 => Self::Group,
            5 => Self::ChildOf(pid?),
            6 => Self::Keeper,
            7 => Self::Token,
            8 => Self::Recorded,
            9 => Self::ForkEvent,
            _ => return None,
        })
    }
}

/// What is known of one tree at the time of the snapshot. Every pid in it was verified to be the recorded process.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeView {
    /// The root, if it exists: alive, or a zombie that still pins its pid and session number.
    pub(crate) root: Option<Pid>,
    /// The session that the gate created, while a verified process pins it; afterwards its number may have been reused by an
    /// unrelated process.
    pub(crate) session: Option<Pid>,
    /// The process group that the gate created, under the same condition.
    pub(crate) group: Option<Pid>,
    /// The processes in its cgroup leaf. Listed after the snapshot was taken: a pid in both is the same process in both.
    pub(crate) leaf: HashSet<Pid>,
    /// The keeper of the tree, while it is alive: not a member itself, but everything below it is.
    pub(crate) keeper: Option<Pid>,
    /// Members that were recorded, or found by an earlier scan.
    pub(crate) known: Vec<(Pid, Evidence)>,
    /// Processes of the row's uid that carry the token.
    pub(crate) carriers: Vec<Pid>,
}

/// The members of one tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) members: BTreeMap<Pid, Evidence>,
    /// Token alone, and a controlling terminal there or below: it may be a person's window in a `tmux` that the task started,
    /// or that `tmux`, which would end its windows with it.
    pub(crate) suspects: Vec<Pid>,
}

/// Finds the members of one tree.
///
/// A process in `exempt` is not a member, and no process is a member through it: the acting process, its ancestors, what is
/// below it, and the processes that another live instance is responsible for.
pub(crate) fn members(snapshot: &Snapshot, tree: &TreeView, exempt: &HashSet<Pid>) -> Members {
    let mut found = Members::default();
    let mut open = Vec::new();
    let mut add = |members: &mut BTreeMap<Pid, Evidence>,
                   open: &mut Vec<Pid>,
                   pid: Pid,
                   evidence: Evidence| {
        let there = snapshot.get(pid).is_some_and(|stat| !stat.is_kernel_thread());
        if there && !exempt.contains(&pid) && !members.contains_key(&pid) {
            members.insert(pid, evidence);
            open.push(pid);
        }
    };
    if let Some(root) = tree.root {
        add(&mut found.members, &mut open, root, Evidence::Root);
    }
    for &pid in &tree.leaf {
        add(&mut found.members, &mut open, pid, Evidence::Leaf);
    }
    for &(pid, evidence) in &tree.known {
        add(&mut found.members, &mut open, pid, evidence);
    }
    for stat in tree.session.iter().flat_map(|&session| snapshot.in_session(session)) {
        add(&mut found.members, &mut open, stat.pid, Evidence::Session);
    }
    for stat in tree.group.iter().flat_map(|&group| snapshot.in_group(group)) {
        add(&mut found.members, &mut open, stat.pid, Evidence::Group);
    }
    close(snapshot, &mut found.members, &mut open, &mut add);
    for child in tree.keeper.iter().flat_map(|&keeper| snapshot.children(keeper)) {
        add(&mut found.members, &mut open, child.pid, Evidence::Keeper);
    }
    close(snapshot, &mut found.members, &mut open, &mut add);
    let (on_terminal, plain): (Vec<_>, Vec<_>) =
        tree.carriers.iter().partition(|&&pid| serves_a_terminal(snapshot, pid));
    for pid in plain {
        add(&mut found.members, &mut open, pid, Evidence::Token);
    }
    close(snapshot, &mut found.members, &mut open, &mut add);
    let is_member = |pid: &Pid| found.members.contains_key(pid);
    found.suspects =
        on_terminal.into_iter().filter(|pid| !is_member(pid) && !exempt.contains(pid)).collect();
    found
}

/// Adds children of members until there are no more.
fn close(
    snapshot: &Snapshot,
    members: &mut BTreeMap<Pid, Evidence>,
    open: &mut Vec<Pid>,
    add: &mut impl FnMut(&mut BTreeMap<Pid, Evidence>, &mut Vec<Pid>, Pid, Evidence),
) {
    while let Some(parent) = open.pop() {
        for child in snapshot.children(parent) {
            add(members, open, child.pid, Evidence::ChildOf(parent));
        }
    }
}

/// Reports whether the process, or one below it, has a controlling terminal: a `tmux` server has none itself, its windows have.
fn serves_a_terminal(snapshot: &Snapshot, pid: Pid) -> bool {
    let on_terminal = |pid| snapshot.get(pid).is_some_and(|stat| stat.terminal != 0);
    on_terminal(pid) || snapshot.below(pid).into_iter().any(on_terminal)
}

impl TreeView {
    /// Reports whether the process is one that the tree's closure begins with.
    fn begins_with(&self, stat: &Stat) -> bool {
        self.root == Some(stat.pid)
            || self.known.iter().any(|(pid, _)| *pid == stat.pid)
            || self.leaf.contains(&stat.pid)
            || self.carriers.contains(&stat.pid)
            || self.session.is_some_and(|session| stat.session == session.get())
            || self.group.is_some_and(|group| stat.group == group.get())
            || self.keeper.is_some_and(|keeper| stat.parent == keeper.get())
    }

    /// Returns the tree without the evidence that does not imply "below": a task that restarts its host leaves the token, and a
    /// row that an earlier pass wrote, to the new host, which is then a descendant only of the keeper.
    pub(crate) fn certain(&self) -> Self {
        let doubtful = |evidence: &Evidence| {
            use Evidence::{Keeper, Leaf, Recorded, Token};
            matches!(evidence, Leaf | Token | Recorded | Keeper)
        };
        Self {
            carriers: Vec::new(),
            leaf: HashSet::new(),
            keeper: None,
            known: self.known.iter().copied().filter(|(_, how)| !doubtful(how)).collect(),
            ..self.clone()
        }
    }

    /// Forgets the keeper where one of `instances` is below it and is not a certain member: processes below that keeper may
    /// then belong to the new host, whose tasks' daemons are orphaned to it as well.
    pub(crate) fn trust_keeper(
        &mut self,
        snapshot: &Snapshot,
        certain: &BTreeMap<Pid, Evidence>,
        instances: impl IntoIterator<Item = Pid>,
    ) {
        let Some(keeper) = self.keeper else { return };
        let below = snapshot.below(keeper);
        if instances.into_iter().any(|pid| below.contains(&pid) && !certain.contains_key(&pid)) {
            self.keeper = None;
        }
    }
}

/// Returns the processes that a tree must leave running on behalf of the acting process: itself and its ancestors; and what is
/// below it, where it runs within this very tree, because those processes have the tree's token, session and parents. Of any
/// other tree the acting process is often the parent, which exempts nothing.
pub(crate) fn kin(snapshot: &Snapshot, tree: &TreeView, own: Pid) -> HashSet<Pid> {
    let mut lineage: HashSet<Pid> = snapshot.ancestors(own).into_iter().collect();
    lineage.insert(own);
    let within =
        lineage.iter().any(|&pid| snapshot.get(pid).is_some_and(|stat| tree.begins_with(stat)));
    if within {
        lineage.extend(snapshot.below(own));
    }
    lineage
}

/// Returns the acting process, its ancestors and everything below it, which a search by name always skips.
pub(crate) fn oneself(snapshot: &Snapshot, own: Pid) -> HashSet<Pid> {
    let mut exempt = snapshot.below(own);
    exempt.extend(snapshot.ancestors(own));
    exempt.insert(own);
    exempt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::snapshot::tests::{pid, stat};

    fn world() -> Snapshot {
        // 10 is a root with a session; 11 its child, 12 a grandchild in a session of its own; 20 an unrelated process; 30 a
        // daemon that was reparented to init and carries the token; 31 its child.
        let all = [
            (1, 0, 1),
            (10, 1, 10),
            (11, 10, 10),
            (12, 11, 12),
            (20, 1, 20),
            (30, 1, 30),
            (31, 30, 30),
        ];
        Snapshot::new(all.map(|(number, parent, session)| stat(number, parent, session)))
    }

    fn pids(found: &Members) -> Vec<u32> {
        found.members.keys().map(|pid| pid.get()).collect()
    }

    #[test]
    fn a_registered_root_has_only_what_is_below_it() {
        let tree = TreeView { root: Some(pid(10)), ..TreeView::default() };
        assert_eq!(pids(&members(&world(), &tree, &HashSet::new())), [10, 11, 12]);
    }

    #[test]
    fn a_session_counts_when_its_root_is_gone_and_a_process_pins_it() {
        let snapshot = Snapshot::new([stat(1, 0, 1), stat(11, 1, 10), stat(12, 11, 12)]);
        let tree = TreeView { session: Some(pid(10)), ..TreeView::default() };
        let found = members(&snapshot, &tree, &HashSet::new());
        assert_eq!(pids(&found), [11, 12]);
        assert_eq!(found.members[&pid(11)], Evidence::Session);
        assert_eq!(found.members[&pid(12)], Evidence::ChildOf(pid(11)));
    }

    #[test]
    fn the_token_finds_a_daemon_and_what_is_below_it() {
        let tree = TreeView { carriers: vec![pid(30)], ..TreeView::default() };
        assert_eq!(pids(&members(&world(), &tree, &HashSet::new())), [30, 31]);
    }

    #[test]
    fn w3_token_alone_on_a_terminal_is_a_suspect() {
        let snapshot = Snapshot::new(world().iter().cloned().map(|mut stat| {
            stat.terminal = if stat.pid == pid(30) { 34817 } else { 0 };
            stat
        }));
        let tree = TreeView { root: Some(pid(10)), carriers: vec![pid(30)], ..TreeView::default() };
        let found = members(&snapshot, &tree, &HashSet::new());
        assert_eq!(pids(&found), [10, 11, 12]);
        assert_eq!(found.suspects, [pid(30)]);
    }

    #[test]
    fn w3_a_tmux_server_with_windows_is_a_suspect() {
        let snapshot = Snapshot::new(world().iter().cloned().map(|mut stat| {
            stat.terminal = if stat.pid == pid(31) { 34817 } else { 0 };
            stat
        }));
        let tree = TreeView { carriers: vec![pid(30)], ..TreeView::default() };
        let found = members(&snapshot, &tree, &HashSet::new());
        assert_eq!(pids(&found), [0_u32; 0]);
        assert_eq!(found.suspects, [pid(30)]);
        // A process that an earlier pass found below the root belongs to the task, with or without a terminal.
        let recorded = TreeView { known: vec![(pid(30), Evidence::Recorded)], ..tree };
        assert_eq!(pids(&members(&snapshot, &recorded, &HashSet::new())), [30, 31]);
    }

    #[test]
    fn invariant_13_the_acting_process_and_its_ancestors_are_never_members() {
        // The acting process is 12, below root 10.
        let exempt = oneself(&world(), pid(12));
        let tree = TreeView {
            root: Some(pid(10)),
            session: Some(pid(10)),
            carriers: vec![pid(12), pid(11), pid(30)],
            ..TreeView::default()
        };
        assert_eq!(pids(&members(&world(), &tree, &exempt)), [30, 31]);
    }

    #[test]
    fn what_the_acting_process_has_started_itself_is_a_member() {
        // The acting process is 10, and 11 the root.
        let tree = TreeView { root: Some(pid(11)), ..TreeView::default() };
        let exempt = kin(&world(), &tree, pid(10));
        assert_eq!(pids(&members(&world(), &tree, &exempt)), [11, 12]);
    }

    #[test]
    fn invariant_13_within_the_tree_descendants_of_the_acting_process_are_not_members() {
        // The acting process is 11, below root 10; 12 is its child, and carries the token that 11 inherited.
        let tree = TreeView { root: Some(pid(10)), carriers: vec![pid(12)], ..TreeView::default() };
        let exempt = kin(&world(), &tree, pid(11));
        assert_eq!(pids(&members(&world(), &tree, &exempt)), [0_u32; 0]);
    }

    #[test]
    fn nothing_is_a_member_through_what_is_exempt() {
        let tree = TreeView { root: Some(pid(10)), ..TreeView::default() };
        assert_eq!(pids(&members(&world(), &tree, &HashSet::from([pid(11)]))), [10]);
    }

    /// 5 is a keeper, 10 its root, 12 a daemon that was orphaned to it, 13 a new host that was orphaned to it too, 14 the new
    /// host's program.
    fn kept_world() -> Snapshot {
        let all = [
            (1, 0, 1),
            (5, 1, 5),
            (10, 5, 10),
            (11, 10, 10),
            (12, 5, 12),
            (13, 5, 13),
            (14, 13, 14),
        ];
        Snapshot::new(all.map(|(number, parent, session)| stat(number, parent, session)))
    }

    #[test]
    fn everything_below_a_keeper_is_a_member_and_the_keeper_is_not() {
        let tree = TreeView { root: Some(pid(10)), keeper: Some(pid(5)), ..TreeView::default() };
        let found = members(&kept_world(), &tree, &HashSet::new());
        assert_eq!(pids(&found), [10, 11, 12, 13, 14]);
        assert_eq!(found.members[&pid(10)], Evidence::Root);
        assert_eq!(found.members[&pid(12)], Evidence::Keeper);
    }

    #[test]
    fn invariant_13_below_a_new_host_the_keeper_is_no_evidence() {
        let tree = TreeView { root: Some(pid(10)), keeper: Some(pid(5)), ..TreeView::default() };
        let certain = members(&kept_world(), &tree.certain(), &HashSet::new()).members;
        let trusted = |instances: &[u32]| {
            let mut tree = tree.clone();
            tree.trust_keeper(&kept_world(), &certain, instances.iter().map(|&number| pid(number)));
            tree.keeper.is_some()
        };
        assert!(!trusted(&[13]), "it is a child of the keeper only");
        assert!(trusted(&[11]), "it is the root's child, and goes with it");
        assert!(trusted(&[1]), "it is not below the keeper");
    }

    #[test]
    fn a_kernel_thread_is_never_a_member() {
        let mut thread = stat(40, 2, 0);
        thread.flags = 0x0020_0000;
        let snapshot = Snapshot::new([thread]);
        let tree = TreeView { root: Some(pid(40)), ..TreeView::default() };
        assert_eq!(pids(&members(&snapshot, &tree, &HashSet::new())), [0_u32; 0]);
    }
}
