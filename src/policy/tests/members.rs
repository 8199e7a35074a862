use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::{any_pid, machine, number, pid, some_pids};
use crate::{
    identity::Pid,
    model::Evidence,
    policy::{exemption::*, membership::*, suspects::SuspectReason},
    sys::snapshot::Snapshot,
};

fn evidence() -> impl Strategy<Value = Evidence> {
    prop::sample::select(vec![Evidence::Recorded, Evidence::ForkEvent, Evidence::Session])
}

prop_compose! {
    fn known()(
        pid in any_pid(), evidence in evidence(), descends: bool, signalled: bool,
    ) -> Known {
        Known { pid, evidence, descends, signalled }
    }
}

prop_compose! {
    pub(super) fn tree()(
        root in prop::option::of(any_pid()),
        session in prop::option::weighted(0.3, (1..4_u32).prop_map(pid)),
        task_cgroup in some_pids(),
        keeper in prop::option::weighted(0.2, any_pid()),
        known in prop::collection::vec(known(), 0..3),
        token_holders in some_pids(),
        other_holders in prop::collection::vec((any_pid(), 7..9_u32), 0..3),
    ) -> TreeFacts {
        let task_cgroup = task_cgroup.into_iter().collect();
        let facts = TreeFacts { root, session, task_cgroup, keeper, known, ..TreeFacts::default() };
        TreeFacts { token_holders, other_holders, ..facts }
    }
}

prop_compose! {
    fn instance()(instance in any_pid(), processes in some_pids()) -> Foreign {
        Foreign { instance, processes }
    }
}

pub(super) fn instances() -> impl Strategy<Value = Vec<Foreign>> {
    prop::collection::vec(instance(), 0..3)
}

pub(super) fn acting() -> impl Strategy<Value = Option<Pid>> {
    prop::option::weighted(0.7, any_pid())
}

/// Checks that a member's evidence is what the machine and the tree show.
pub(super) fn holds(
    snapshot: &Snapshot,
    tree: &TreeFacts,
    found: &Membership<'_>,
    (member, evidence): (Pid, Evidence),
) -> bool {
    let Some(stat) = snapshot.get(member) else { return false };
    let is = |number: Option<Pid>, field: u32| number.is_some_and(|number| number.get() == field);
    match evidence {
        Evidence::Root => tree.root == Some(member),
        Evidence::TaskCgroup => tree.task_cgroup.contains(&member),
        Evidence::ChildOf(parent) => {
            let is_there =
                found.members.contains_key(&parent) || found.spared.contains_key(&parent);
            is_there && stat.parent == parent.get()
        }
        Evidence::Keeper => is(found.keeper, stat.parent),
        Evidence::Token => tree.token_holders.contains(&member) && stat.terminal == 0,
        how => {
            let by_session = match how {
                Evidence::Session => is(tree.session, stat.session),
                Evidence::Group => is(tree.session, stat.group),
                _ => false,
            };
            by_session
                || tree.known.iter().any(|known| (known.pid, known.evidence) == (member, how))
        }
    }
}

fn keys(found: &Membership<'_>) -> BTreeSet<Pid> {
    found.members.keys().copied().collect()
}

proptest! {
    #[test]
    fn each_member_is_there_and_its_evidence_can_be_checked(
        snapshot in machine(), tree in tree(), others in instances(), own in acting(),
    ) {
        let system = System::new(&snapshot, own, &others);
        let found = decide(&system, &tree, None);
        for (&member, &evidence) in &found.members {
            prop_assert!(holds(&snapshot, &tree, &found, (member, evidence)), "{:?} of {:?}", member, found);
            prop_assert!(!snapshot.get(member).expect("there").is_kernel_thread());
        }
    }

    #[test]
    fn an_exempt_process_is_neither_member_nor_suspect(
        snapshot in machine(), tree in tree(), others in instances(), own in acting(),
    ) {
        let system = System::new(&snapshot, own, &others);
        let found = decide(&system, &tree, None);
        prop_assert!(found.members.keys().chain(found.suspects.keys()).all(|&pid| !found.exempt.contains(pid)));
    }

    #[test]
    fn a_child_of_a_member_is_a_member_unless_it_is_exempt(
        snapshot in machine(), tree in tree(), others in instances(), own in acting(),
    ) {
        let system = System::new(&snapshot, own, &others);
        let found = decide(&system, &tree, None);
        for &member in found.members.keys() {
            for child in snapshot.children(member) {
                let is_left_out = found.exempt.contains(child.pid) || child.is_kernel_thread();
                prop_assert!(is_left_out || found.members.contains_key(&child.pid), "{:?}", child.pid);
            }
        }
    }

    #[test]
    fn more_facts_find_no_fewer_members(
        snapshot in machine(), tree in tree(), own in acting(),
        also_known in some_pids(), also_in_cgroup in some_pids(), also_carry in some_pids(),
    ) {
        // Neither the acting process nor another instance is within the tree; its kin would be
        // exempt.
        let system = System::new(&snapshot, own.filter(|own| snapshot.get(*own).is_none()), &[]);
        let less = keys(&decide(&system, &tree, None));
        let mut more = tree;
        more.known.extend(also_known.into_iter().map(Known::recorded));
        more.task_cgroup.extend(also_in_cgroup);
        more.token_holders.extend(also_carry);
        prop_assert!(less.is_subset(&keys(&decide(&system, &more, None))));
    }

    #[test]
    fn w3_the_token_alone_never_makes_a_member_of_what_serves_a_terminal(
        snapshot in machine(), token_holders in some_pids(),
    ) {
        let tree = TreeFacts { token_holders: token_holders.clone(), ..TreeFacts::default() };
        let system = System::new(&snapshot, None, &[]);
        let found = decide(&system, &tree, None);
        for &member in found.members.keys() {
            prop_assert_eq!(snapshot.get(member).expect("there").terminal, 0);
        }
        for (pid, reason) in &found.suspects {
            prop_assert!(token_holders.contains(pid) && *reason == SuspectReason::Terminal);
            prop_assert!(!found.members.contains_key(pid));
        }
    }

    #[test]
    fn invariant_13_by_no_rule_is_the_acting_process_or_an_ancestor_a_member(
        snapshot in machine(), tree in tree(), others in instances(), own in number(),
    ) {
        let own = pid(own);
        let system = System::new(&snapshot, Some(own), &others);
        let found = decide(&system, &tree, None);
        for pid in snapshot.ancestors(own).into_iter().chain([own]) {
            prop_assert!(!found.members.contains_key(&pid) && !found.suspects.contains_key(&pid));
        }
        let by_name = oneself(&snapshot, own);
        prop_assert!(by_name.contains(&own));
        prop_assert!(by_name.is_superset(&snapshot.below(own)));
    }

    #[test]
    fn invariant_7_an_instance_outside_of_the_tree_is_exempt_with_its_processes(
        snapshot in machine(), tree in tree(), others in instances(), own in acting(),
    ) {
        let system = System::new(&snapshot, own, &others);
        let found = decide(&system, &tree, None);
        let descendants = descendants(&system, &tree, found.session);
        for it in others.iter().filter(|it| !descendants.contains(&it.instance)) {
            for pid in it.processes.iter().chain([&it.instance]).filter(|&&pid| tree.root != Some(pid)) {
                prop_assert!(found.exempt.contains(*pid), "{:?}", pid);
            }
        }
    }

    #[test]
    fn a_descendant_is_a_member_unless_it_is_exempt(
        snapshot in machine(), tree in tree(), others in instances(), own in acting(),
    ) {
        let system = System::new(&snapshot, own, &others);
        let found = decide(&system, &tree, None);
        // A descendant below an exempt process is reached only through that process.
        let exempt_above = |pid: Pid| snapshot.ancestors(pid).iter().any(|&above| found.exempt.contains(above));
        for pid in descendants(&system, &tree, found.session) {
            let is_left_out = found.exempt.contains(pid) || exempt_above(pid);
            prop_assert!(found.members.contains_key(&pid) || is_left_out, "{:?}", pid);
        }
    }

    #[test]
    fn a_process_of_another_tree_is_in_no_list(
        snapshot in machine(), tree in tree(), taken in prop::collection::hash_set(any_pid(), 0..5),
    ) {
        let system = System::new(&snapshot, None, &[]);
        let mut found = decide(&system, &tree, None);
        found.without(|pid| taken.contains(&pid));
        let all: HashSet<Pid> = found.members.keys().chain(found.suspects.keys()).copied().collect();
        prop_assert!(all.is_disjoint(&taken));
    }
}
