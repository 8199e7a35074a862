//! Determines which members of a tree are left running: programs that have a protected name, and
//! all their descendants.

use std::collections::{BTreeMap, HashSet};

use super::{
    exemption::Exempt,
    name_match::{Program, matched},
};
use crate::{
    identity::Pid,
    model::{Named, SpareReason},
    sys::snapshot::Snapshot,
};

/// Returns the part of a program by which one of the names protects it.
///
/// No name is protected by default; protected names are those of
/// [`Builder::protect`](crate::Builder::protect) and [`Job::protect`](crate::Job::protect).
pub(crate) fn protecting(program: &Program, names: &[&[String]]) -> Option<Named> {
    names.iter().find_map(|names| matched(program, names)).map(|found| found.named)
}

/// Returns the members of a tree that are left running, each with the reason.
///
/// `judge` returns the reason that applies to a process itself; it is called for `candidates`, in
/// the order of their pids. Processes in `before` stay spared. All descendants of a process that is
/// left running are left running with it, except `exempt`, which are not members anyway.
///
/// The root, which its caller asked to end, is never protected, nor is a process that it forked and
/// that still runs the same program: the workers of a server, a subshell, a child just before its
/// exec.
pub(super) fn spared(
    snapshot: &Snapshot,
    root: Option<Pid>,
    candidates: impl IntoIterator<Item = Pid>,
    exempt: &Exempt<'_>,
    before: &BTreeMap<Pid, SpareReason>,
    mut judge: impl FnMut(Pid) -> Option<SpareReason>,
) -> BTreeMap<Pid, SpareReason> {
    let mut own = root.map_or_else(HashSet::new, |root| same_program(snapshot, root, &mut judge));
    own.retain(|pid| !before.contains_key(pid));
    let mut spared: BTreeMap<Pid, SpareReason> = (candidates.into_iter())
        .filter(|pid| !own.contains(pid))
        .filter_map(|pid| Some((pid, judge(pid)?)))
        .collect();
    spared.extend(before.iter().map(|(pid, why)| (*pid, why.clone())));
    let stop = |pid| exempt.contains(pid) || own.contains(&pid);
    for (pid, why) in spared.clone() {
        for below in snapshot.below_until(pid, stop) {
            if snapshot.get(below).is_some_and(|stat| !stat.is_kernel_thread()) {
                let why = || SpareReason::Below(pid, Box::new(why.clone()));
                spared.entry(below).or_insert_with(why);
            }
        }
    }
    spared
}

/// Returns the root, and each descendant that is connected to it by an unbroken line of processes
/// that are protected by the same rule as the root itself.
fn same_program(
    snapshot: &Snapshot,
    root: Pid,
    judge: &mut impl FnMut(Pid) -> Option<SpareReason>,
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
    use crate::{
        model::Named,
        sys::snapshot::tests::{pid, stat},
    };

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

    const PROTECTED: &str = "its program is named tmux, which is protected";

    fn protected(name: &str) -> SpareReason {
        SpareReason::Protected(Named { part: "program", name: name.to_owned() })
    }

    fn named(number: u32) -> impl Fn(Pid) -> Option<SpareReason> {
        move |candidate| (candidate == pid(number)).then(|| protected("tmux"))
    }

    fn none() -> Exempt<'static> {
        Exempt::only(HashSet::new())
    }

    fn pids(left: &BTreeMap<Pid, SpareReason>) -> Vec<u32> {
        left.keys().map(|pid| pid.get()).collect()
    }

    fn members() -> Vec<Pid> {
        [10, 11, 12, 13, 14].map(pid).to_vec()
    }

    #[test]
    fn descendants_of_a_protected_program_are_left_with_it_and_its_sibling_is_not() {
        let left = spared(&world(), Some(pid(10)), members(), &none(), &BTreeMap::new(), named(11));
        assert_eq!(pids(&left), [11, 12, 13]);
        assert_eq!(left[&pid(11)].to_string(), PROTECTED);
        assert_eq!(left[&pid(13)].to_string(), format!("it is below process 11: {PROTECTED}"));
    }

    #[test]
    fn the_root_is_never_left_whatever_its_name() {
        let left = spared(&world(), Some(pid(10)), members(), &none(), &BTreeMap::new(), named(10));
        assert_eq!(pids(&left), [0_u32; 0]);
    }

    #[test]
    fn forks_of_the_root_end_with_it_despite_the_protected_name() {
        // 12 is a worker of worker 11; 14 has the name of another protected program.
        let judge = |candidate: Pid| {
            let rule = if candidate == pid(14) { "another" } else { "the root's" };
            (candidate != pid(13)).then(|| protected(rule))
        };
        let left = spared(&world(), Some(pid(10)), members(), &none(), &BTreeMap::new(), judge);
        assert_eq!(pids(&left), [14]);
    }

    #[test]
    fn a_server_that_is_no_child_of_its_client_is_not_its_fork() {
        let snapshot = Snapshot::new([stat(1, 0, 1), stat(10, 1, 10), stat(11, 1, 11)]);
        let rule = |_: Pid| Some(protected("named"));
        let left =
            spared(&snapshot, Some(pid(10)), [10, 11].map(pid), &none(), &BTreeMap::new(), rule);
        assert_eq!(pids(&left), [11]);
    }

    #[test]
    fn a_descendant_by_itself_is_not_a_root() {
        let left = spared(&world(), None, [pid(11)], &none(), &BTreeMap::new(), named(11));
        assert_eq!(pids(&left), [11, 12, 13]);
    }

    #[test]
    fn a_root_below_a_protected_program_is_ended_with_all_it_has() {
        let left = spared(
            &world(),
            Some(pid(12)),
            [11, 12, 13].map(pid),
            &none(),
            &BTreeMap::new(),
            named(11),
        );
        assert_eq!(pids(&left), [11]);
    }

    #[test]
    fn processes_of_another_instance_are_not_reported_as_protected() {
        let exempt = Exempt::only(HashSet::from([pid(12)]));
        let left =
            spared(&world(), Some(pid(10)), members(), &exempt, &BTreeMap::new(), |candidate| {
                (candidate == pid(11)).then(|| protected("x"))
            });
        assert_eq!(pids(&left), [11]);
    }
}
