use std::collections::HashSet;

use proptest::prelude::*;

use super::{any_pid, line_up, machine, some_pids};
use crate::identity::Pid;

proptest! {
    #[test]
    fn the_descendants_of_a_process_have_it_among_their_ancestors(snapshot in machine(), above in any_pid()) {
        let below = snapshot.below(above);
        for stat in snapshot.iter() {
            let has = line_up(&snapshot, stat.pid).contains(&above);
            prop_assert_eq!(below.contains(&stat.pid), has, "{:?}", stat.pid);
        }
        prop_assert!(below.iter().all(|&pid| snapshot.get(pid).is_some()));
    }

    #[test]
    fn ancestors_are_the_line_of_parents_each_once_and_never_the_process_itself(snapshot in machine(), own in any_pid()) {
        let ancestors = snapshot.ancestors(own);
        let mut line = line_up(&snapshot, own);
        line.remove(&own);
        prop_assert_eq!(ancestors.len(), line.len(), "each once");
        prop_assert!(ancestors.iter().all(|pid| line.contains(pid)));
        // Nearest first.
        let first = snapshot.get(own).and_then(|stat| Pid::new(i64::from(stat.parent)));
        prop_assert_eq!(ancestors.first().copied(), first.filter(|&parent| parent != own));
    }

    #[test]
    fn below_until_stops_at_the_given_processes_and_misses_no_other(
        snapshot in machine(),
        above in any_pid(),
        others in some_pids(),
    ) {
        let others: HashSet<Pid> = others.into_iter().collect();
        let found = snapshot.below_until(above, |pid| others.contains(&pid));
        prop_assert!(found.is_disjoint(&others));
        prop_assert!(found.is_subset(&snapshot.below(above)));
        for &pid in found.iter().chain([&above]) {
            for child in snapshot.children(pid) {
                prop_assert!(found.contains(&child.pid) || others.contains(&child.pid));
            }
        }
    }
}
