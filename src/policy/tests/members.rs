use std::collections::HashSet;

use proptest::prelude::*;

use super::{any_pid, machine, number, pid, some_pids};
use crate::{identity::Pid, policy::membership::*, sys::snapshot::Snapshot};

fn evidence() -> impl Strategy<Value = Evidence> {
    prop::sample::select(vec![Evidence::Recorded, Evidence::ForkEvent])
}

prop_compose! {
    fn tree()(
        root in prop::option::of(any_pid()),
        session in prop::option::weighted(0.3, (1..4_u32).prop_map(pid)),
        group in prop::option::weighted(0.2, (1..4_u32).prop_map(pid)),
        leaf in some_pids(),
        keeper in prop::option::weighted(0.2, any_pid()),
        known in prop::collection::vec((any_pid(), evidence()), 0..3),
        carriers in some_pids(),
    ) -> TreeView {
        TreeView { root, session, group, leaf: leaf.into_iter().collect(), keeper, known, carriers }
    }
}

fn exempt() -> impl Strategy<Value = HashSet<Pid>> {
    prop::collection::hash_set(any_pid(), 0..5)
}

/// Checks that a member's evidence is what the machine and the tree show.
fn holds(snapshot: &Snapshot, tree: &TreeView, found: &Members, member: Pid) -> bool {
    let Some(stat) = snapshot.get(member) else { return false };
    match found.members[&member] {
        Evidence::Root => tree.root == Some(member),
        Evidence::Leaf => tree.leaf.contains(&member),
        Evidence::Session => tree.session.is_some_and(|session| session.get() == stat.session),
        Evidence::Group => tree.group.is_some_and(|group| group.get() == stat.group),
        Evidence::ChildOf(parent) => {
            found.members.contains_key(&parent) && stat.parent == parent.get()
        }
        Evidence::Keeper => tree.keeper.is_some_and(|keeper| keeper.get() == stat.parent),
        Evidence::Token => tree.carriers.contains(&member) && stat.terminal == 0,
        how @ (Evidence::Recorded | Evidence::ForkEvent) => tree.known.contains(&(member, how)),
    }
}

fn keys(found: &Members) -> HashSet<Pid> {
    found.members.keys().copied().collect()
}

proptest! {
    #[test]
    fn each_member_is_there_and_its_evidence_can_be_checked(
        snapshot in machine(), tree in tree(), exempt in exempt(),
    ) {
        let found = members(&snapshot, &tree, &exempt);
        for &member in found.members.keys() {
            prop_assert!(holds(&snapshot, &tree, &found, member), "{:?} of {:?}", member, found);
            prop_assert!(!snapshot.get(member).expect("there").is_kernel_thread());
        }
    }

    #[test]
    fn an_exempt_process_is_neither_member_nor_suspect(
        snapshot in machine(), tree in tree(), exempt in exempt(),
    ) {
        let found = members(&snapshot, &tree, &exempt);
        prop_assert!(keys(&found).is_disjoint(&exempt));
        prop_assert!(found.suspects.iter().all(|pid| !exempt.contains(pid)));
    }

    #[test]
    fn a_childs_parent_is_never_left_out(snapshot in machine(), tree in tree(), exempt in exempt()) {
        let found = members(&snapshot, &tree, &exempt);
        for &member in found.members.keys() {
            for child in snapshot.children(member) {
                let is_left_out = exempt.contains(&child.pid) || child.is_kernel_thread();
                prop_assert!(is_left_out || found.members.contains_key(&child.pid), "{:?}", child.pid);
            }
        }
    }

    #[test]
    fn a_scan_that_knows_the_members_finds_the_same_again(
        snapshot in machine(), tree in tree(), exempt in exempt(),
    ) {
        let first = members(&snapshot, &tree, &exempt);
        let known = first.members.keys().map(|&pid| (pid, Evidence::Recorded)).collect();
        let again = members(&snapshot, &TreeView { known, ..tree }, &exempt);
        prop_assert_eq!(keys(&first), keys(&again));
        prop_assert_eq!(first.suspects, again.suspects);
    }

    #[test]
    fn a_view_that_knows_more_finds_no_fewer_members(
        snapshot in machine(), tree in tree(), exempt in exempt(),
        also_known in some_pids(), also_in_leaf in some_pids(), also_carry in some_pids(),
    ) {
        let less = keys(&members(&snapshot, &tree, &exempt));
        let mut more = tree;
        more.known.extend(also_known.into_iter().map(|pid| (pid, Evidence::Recorded)));
        more.leaf.extend(also_in_leaf);
        more.carriers.extend(also_carry);
        prop_assert!(less.is_subset(&keys(&members(&snapshot, &more, &exempt))));
    }

    #[test]
    fn a_view_that_exempts_more_finds_no_more_members(
        snapshot in machine(), tree in tree(), exempt in exempt(), also in exempt(),
    ) {
        let more = keys(&members(&snapshot, &tree, &exempt));
        let all = exempt.union(&also).copied().collect();
        prop_assert!(keys(&members(&snapshot, &tree, &all)).is_subset(&more));
    }

    #[test]
    fn w3_the_token_alone_never_makes_a_member_of_what_serves_a_terminal(
        snapshot in machine(), carriers in some_pids(),
    ) {
        let tree = TreeView { carriers: carriers.clone(), ..TreeView::default() };
        let found = members(&snapshot, &tree, &HashSet::new());
        for &member in found.members.keys() {
            prop_assert_eq!(snapshot.get(member).expect("there").terminal, 0);
        }
        prop_assert!(found.suspects.iter().all(|pid| carriers.contains(pid)));
        prop_assert!(found.suspects.iter().all(|pid| !found.members.contains_key(pid)));
    }

    #[test]
    fn invariant_13_by_no_rule_is_the_acting_process_or_an_ancestor_a_member(
        snapshot in machine(), tree in tree(), own in number(),
    ) {
        let own = pid(own);
        let found = members(&snapshot, &tree, &kin(&snapshot, &tree, own));
        for pid in snapshot.ancestors(own).into_iter().chain([own]) {
            prop_assert!(!found.members.contains_key(&pid) && !found.suspects.contains(&pid));
        }
        let by_name = oneself(&snapshot, own);
        prop_assert!(by_name.contains(&own));
        prop_assert!(by_name.is_superset(&snapshot.below(own)));
    }

    #[test]
    fn what_is_certain_is_part_of_what_is_found(
        snapshot in machine(), tree in tree(), exempt in exempt(),
    ) {
        let certain = keys(&members(&snapshot, &tree.certain(), &exempt));
        prop_assert!(certain.is_subset(&keys(&members(&snapshot, &tree, &exempt))));
    }
}
