//! Which members of a tree are left running: programs that have a protected name, and what is below them.

use std::collections::{BTreeMap, HashSet};

use crate::{identity::Pid, sys::snapshot::Snapshot};

/// Returns the members of a tree that are left running, each with the rule, in words.
///
/// `judge` returns the rule by which a process is protected itself; `candidates` are the processes it is called for, in the
/// order of their pids. Everything below a protected process is left running with it, except `exempt`, which are not members
/// anyway.
///
/// The root, which its caller asked to end, is never protected, nor is a process that it forked and that still runs the same
/// program: the workers of a server, a subshell, a child just before its exec.
pub(crate) fn left(
    snapshot: &Snapshot,
    root: Option<Pid>,
    candidates: impl IntoIterator<Item = Pid>,
    exempt: &HashSet<Pid>,
    mut judge: impl FnMut(Pid) -> Option<String>,
) -> BTreeMap<Pid, String> {
    let own = root.map_or_else(HashSet::new, |root| same_program(snapshot, root, &mut judge));
    let mut left: BTreeMap<Pid, String> = (candidates.into_iter())
        .filter(|pid| !own.contains(pid))
        .filter_map(|pid| Some((pid, judge(pid)?)))
        .collect();
    let mut stop = exempt.clone();
    stop.extend(own);
    for (pid, why) in left.clone() {
        for below in snapshot.below_until(pid, &stop) {
            if snapshot.get(below).is_some_and(|stat| !stat.is_kernel_thread()) {
                left.entry(below).or_insert_with(|| format!("it is below process {pid}: {why}"));
            }
        }
    }
    left
}

/// Returns the root, and what is below it through an unbroken line of processes that are protected by the same rule as the root
/// itself.
fn same_program(
    snapshot: &Snapshot,
    root: Pid,
    judge: &mut impl FnMut(Pid) -> Option<String>,
) -> HashSet<Pid> {
    let mut same = HashSet::from([root]);
    let Some(rule) = judge(root) else { return same };
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for child in snapshot.children(parent) {
            if judge(child.pid).as_ref() == Some(&rule) && same.insert(child.pid) {
                open.push(child.pid);
            }
        }
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::snapshot::tests::{pid, stat};

    /// Root 10 with a server 11 (its window 12, a shell 13 in that) and a sibling 14.
    fn world() -> Snapshot {
        Snapshot::new([
            stat(1, 0, 1),
            stat(10, 1, 10),
            stat(11, 10, 11),
            stat(12, 11, 12),
            stat(13, 12, 12),
            stat(14, 10, 10),
        ])
    }

    fn named(number: u32) -> impl Fn(Pid) -> Option<String> {
        move |candidate| (candidate == pid(number)).then(|| "its name is protected".to_owned())
    }

    fn pids(left: &BTreeMap<Pid, String>) -> Vec<u32> {
        left.keys().map(|pid| pid.get()).collect()
    }

    fn members() -> Vec<Pid> {
        [10, 11, 12, 13, 14].map(pid).to_vec()
    }

    #[test]
    fn what_is_below_a_protected_program_is_left_with_it_and_its_sibling_is_not() {
        let left = left(&world(), Some(pid(10)), members(), &HashSet::new(), named(11));
        assert_eq!(pids(&left), [11, 12, 13]);
        assert_eq!(left[&pid(11)], "its name is protected");
        assert_eq!(left[&pid(13)], "it is below process 11: its name is protected");
    }

    #[test]
    fn the_root_is_never_left_whatever_its_name() {
        let left = left(&world(), Some(pid(10)), members(), &HashSet::new(), named(10));
        assert_eq!(pids(&left), [0_u32; 0]);
    }

    #[test]
    fn forks_of_the_root_end_with_it_despite_the_protected_name() {
        // 12 is a worker of worker 11; 14 has the name of another protected program.
        let judge = |candidate: Pid| {
            let rule = if candidate == pid(14) { "another" } else { "the root's" };
            (candidate != pid(13)).then(|| rule.to_owned())
        };
        let left = left(&world(), Some(pid(10)), members(), &HashSet::new(), judge);
        assert_eq!(pids(&left), [14]);
    }

    #[test]
    fn a_server_that_has_left_its_client_is_no_longer_its_fork() {
        let snapshot = Snapshot::new([stat(1, 0, 1), stat(10, 1, 10), stat(11, 1, 11)]);
        let rule = |_: Pid| Some("named".to_owned());
        let left = left(&snapshot, Some(pid(10)), [10, 11].map(pid), &HashSet::new(), rule);
        assert_eq!(pids(&left), [11]);
    }

    #[test]
    fn a_descendant_by_itself_is_not_a_root() {
        let left = left(&world(), None, [pid(11)], &HashSet::new(), named(11));
        assert_eq!(pids(&left), [11, 12, 13]);
    }

    #[test]
    fn a_root_below_a_protected_program_is_ended_with_all_it_has() {
        let left = left(&world(), Some(pid(12)), [11, 12, 13].map(pid), &HashSet::new(), named(11));
        assert_eq!(pids(&left), [11]);
    }

    #[test]
    fn processes_of_another_instance_are_not_reported_as_protected() {
        let exempt = HashSet::from([pid(12)]);
        let left = left(&world(), Some(pid(10)), members(), &exempt, |candidate| {
            (candidate == pid(11)).then(|| "x".to_owned())
        });
        assert_eq!(pids(&left), [11]);
    }
}
