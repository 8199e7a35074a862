use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::{any_pid, line_up, machine, number, some_pids};
use crate::{
    identity::Pid,
    model::{Named, SpareReason},
    policy::{exemption::Exempt, protection::spared},
};

/// The protected name of each process, as a number; 0 is none.
pub(super) fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 0, 0, 1, 2]), super::NUMBERS as usize + 1)
}

proptest! {
    #[test]
    fn a_process_that_is_left_has_a_protected_name_or_is_below_one_that_is_left(
        snapshot in machine(),
        root in prop::option::of(any_pid()),
        candidates in some_pids(),
        exempt in prop::collection::hash_set(any_pid(), 0..4),
        names in names(),
    ) {
        let judge = |pid: Pid| match names[pid.get() as usize] {
            0 => None,
            name => Some(SpareReason::Protected(Named { part: "program", name: name.to_string() })),
        };
        let exempted = Exempt::only(exempt.clone());
        let found = spared(&snapshot, root, candidates.clone(), &exempted, &BTreeMap::new(), judge);
        prop_assert!(root.is_none_or(|root| !found.contains_key(&root)), "the root is left");
        for &pid in found.keys() {
            let by_name = candidates.contains(&pid) && judge(pid).is_some();
            // Kernel threads in between count, though they are never protected themselves.
            let below = line_up(&snapshot, pid).iter().any(|above| found.contains_key(above));
            prop_assert!(by_name || below, "{:?} in {:?}", pid, found);
            prop_assert!(by_name || !exempt.contains(&pid));
        }
    }

    #[test]
    fn without_protected_names_no_process_is_left(
        snapshot in machine(), root in number(), candidates in some_pids(),
    ) {
        let root = Some(super::pid(root));
        let none = Exempt::only(HashSet::new());
        prop_assert!(spared(&snapshot, root, candidates, &none, &BTreeMap::new(), |_| None).is_empty());
    }
}
