//! A preview predicts what an end does. A dry run and `tree` collect the facts once; an end
//! collects them again and again while it signals. Here both run on the same machine, with the same
//! functions as in the tracker.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
};

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    any_pid, machine,
    members::{acting, holds, instances},
    pid, some_pids,
};
use crate::{
    identity::Pid,
    model::{Evidence, Named},
    policy::{exemption::*, membership::*, suspects::SuspectReason, token_holders::*},
    sys::snapshot::{Snapshot, Stat},
};

const TOKEN: Uuid = Uuid::from_u128(1);
/// The uid of the root.
const USER: u32 = 5;
/// More scans than there are processes: the last ones find nothing new.
const SCANS: usize = 20;

/// All facts of a tree and of the machine that it is on.
#[derive(Clone, Debug)]
struct Truth {
    snapshot: Snapshot,
    acting: Option<Pid>,
    foreign: Vec<Foreign>,
    root: Pid,
    may_spare_root: bool,
    task_cgroup: HashSet<Pid>,
    keeper: Option<Pid>,
    /// Processes that an earlier pass has recorded.
    recorded: Vec<Pid>,
    /// The processes that carry the token, with their uids.
    tokens: HashMap<Pid, u32>,
    left_before: HashSet<Pid>,
    keeps_strays: bool,
    /// The protected name that each process has: 0 is none.
    names: Vec<u8>,
}

prop_compose! {
    fn surroundings()(
        snapshot in machine(), acting in acting(), foreign in instances(),
    ) -> (Snapshot, Option<Pid>, Vec<Foreign>) {
        (snapshot, acting, foreign)
    }
}

prop_compose! {
    fn truth()(
        (snapshot, acting, foreign) in surroundings(),
        root in (1..4_u32).prop_map(pid),
        may_spare_root in prop::bool::weighted(0.1),
        task_cgroup in some_pids(),
        keeper in prop::option::weighted(0.2, any_pid()),
        recorded in some_pids(),
        tokens in prop::collection::hash_map(any_pid(), prop::sample::select(vec![USER, USER, 7]), 0..5),
        left_before in prop::collection::hash_set(any_pid(), 0..2),
        keeps_strays in prop::bool::weighted(0.1),
        names in super::protect::names(),
    ) -> Truth {
        Truth {
            snapshot, acting, foreign, root, may_spare_root, keeper, recorded, tokens, left_before, keeps_strays, names,
            task_cgroup: task_cgroup.into_iter().collect(),
        }
    }
}

impl TokenReader for &Truth {
    type Error = Infallible;

    fn tokens(&mut self, stat: &Stat) -> Result<Vec<Uuid>, Infallible> {
        Ok(self.tokens.get(&stat.pid).map(|_| TOKEN).into_iter().collect())
    }

    fn uid(&mut self, pid: Pid) -> Result<Option<u32>, Infallible> {
        Ok(self.tokens.get(&pid).copied())
    }
}

/// The result of a preview or of an end.
#[derive(Debug, PartialEq)]
struct Verdict {
    ended: BTreeMap<Pid, Evidence>,
    spared: BTreeMap<Pid, Spared>,
    suspects: BTreeMap<Pid, SuspectReason>,
}

impl Truth {
    /// Collects the facts. The environments of processes in `skipped` are not read.
    fn facts(&self, known: Vec<Known>, skipped: &HashSet<Pid>) -> TreeFacts {
        let is_there = |pid: &Pid| self.snapshot.get(*pid).is_some();
        let start_tick = u64::from(self.root.get());
        let owners = HashMap::from([(TOKEN, TokenOwner { uid: USER, start_tick })]);
        let skips = |stat: &Stat| skipped.contains(&stat.pid);
        let Ok(mut holders) = token_holders(&self.snapshot, &owners, skips, &mut &*self);
        let left = self.left_before.iter().filter_map(|pid| self.snapshot.get(*pid));
        TreeFacts {
            root: Some(self.root).filter(is_there),
            may_spare_root: self.may_spare_root,
            session: Some(self.root),
            task_cgroup: self.task_cgroup.clone(),
            keeper: self.keeper.filter(is_there),
            known: known.into_iter().filter(|known| is_there(&known.pid)).collect(),
            token_holders: holders.of_user.remove(&TOKEN).unwrap_or_default(),
            other_holders: holders.of_others.remove(&TOKEN).unwrap_or_default(),
            left_before: left.map(|stat| (stat.pid, stat.start_tick)).collect(),
            keeps_strays: self.keeps_strays,
            spared_before: BTreeMap::new(),
            exempt_before: HashSet::new(),
            on_terminal_before: HashSet::new(),
        }
    }

    /// Returns the recorded descendants that are pinned, without those of another instance and the
    /// acting process.
    fn recorded(&self) -> Vec<Known> {
        let system = System::new(&self.snapshot, self.acting, &self.foreign);
        let is_pinned = |pid: &&Pid| **pid != self.root && !system.is_accounted_for(**pid);
        let others = self.recorded.iter().filter(is_pinned);
        others.map(|&pid| Known::recorded(pid)).collect()
    }

    fn decide<T>(
        &self,
        facts: &TreeFacts,
        then: impl FnOnce(&System<'_>, Membership<'_>) -> T,
    ) -> T {
        let system = System::new(&self.snapshot, self.acting, &self.foreign);
        let mut protects = |stat: &Stat| match self.names[stat.pid.get() as usize] {
            0 => None,
            name => Some(Named { part: "program", name: name.to_string() }),
        };
        let found = decide(&system, facts, Some(&mut protects));
        then(&system, found)
    }

    /// Returns the result of a single scan. The environments of processes in `skipped` are not
    /// read.
    fn preview(&self, skipped: &HashSet<Pid>) -> Verdict {
        self.decide(&self.facts(self.recorded(), skipped), |_, found| Verdict {
            ended: found.members,
            spared: found.spared,
            suspects: found.suspects,
        })
    }

    /// Scans, signals what is to be ended, and scans again, as an end does. After each scan,
    /// `goes_on` may change the machine; it receives the processes that were signalled.
    fn end(&self, mut goes_on: impl FnMut(&mut Self, &BTreeMap<Pid, Evidence>)) -> Verdict {
        let mut machine = self.clone();
        let mut known: BTreeMap<Pid, Known> =
            self.recorded().into_iter().map(|known| (known.pid, known)).collect();
        let mut done =
            Verdict { ended: BTreeMap::new(), spared: BTreeMap::new(), suspects: BTreeMap::new() };
        let mut exempt = HashSet::new();
        for _ in 0..SCANS {
            let is_there = |pid: &Pid| machine.snapshot.get(*pid).is_some();
            let pinned = known.keys().chain(done.spared.keys()).copied();
            let skipped = pinned.chain([self.root]).collect();
            let mut facts = machine.facts(known.values().copied().collect(), &skipped);
            let before = done.spared.iter().map(|(&pid, it)| (pid, it.why.clone()));
            facts.exempt_before.clone_from(&exempt);
            let doubted =
                done.suspects.iter().filter(|(_, reason)| **reason == SuspectReason::Terminal);
            facts.on_terminal_before = doubted.map(|(&pid, _)| pid).collect();
            facts.spared_before = before.filter(|(pid, _)| is_there(pid)).collect();
            machine.decide(&facts, |system, found| {
                let descendants = descendants(system, &facts, found.session);
                exempt.extend(found.exempt.found());
                let mut note = |pid: Pid, evidence: Evidence, signalled: bool| {
                    let descends = descendants.contains(&pid);
                    let new = Known { pid, evidence, descends, signalled };
                    let known = known.entry(pid).or_insert(new);
                    known.signalled |= signalled;
                    if known.evidence == Evidence::Recorded {
                        known.evidence = evidence;
                    }
                };
                for (pid, spared) in found.spared {
                    if spared.is_member {
                        note(pid, spared.evidence, false);
                    }
                    done.spared.entry(pid).or_insert(spared);
                }
                for (pid, evidence) in found.members {
                    note(pid, evidence, true);
                    done.ended.entry(pid).or_insert(evidence);
                }
                done.suspects = found.suspects;
            });
            goes_on(&mut machine, &done.ended);
        }
        done
    }

    /// Lets a process die. Its children are adopted by the keeper or by the acting process,
    /// whichever is the nearer ancestor, or by a process outside of the machine, 0. The kernel lets
    /// only ancestors adopt, so no member adopts a process that does not descend from it.
    fn reap(&mut self, dead: Pid) {
        let adopts = |pid: &Pid| Some(*pid) == self.keeper || Some(*pid) == self.acting;
        let present = |pid: &Pid| self.snapshot.get(*pid).is_some();
        let adopter = self.snapshot.ancestors(dead).into_iter().filter(present).find(adopts);
        let adopter = adopter.map_or(0, Pid::get);
        let left = self.snapshot.iter().filter(|stat| stat.pid != dead).cloned();
        self.snapshot = Snapshot::new(left.map(|mut stat| {
            if stat.parent == dead.get() {
                stat.parent = adopter;
            }
            stat
        }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn an_end_does_what_its_preview_says(truth in truth()) {
        prop_assert_eq!(truth.preview(&HashSet::from([truth.root])), truth.end(|_, _| {}));
    }

    #[test]
    fn skipping_environments_of_known_processes_changes_nothing(truth in truth()) {
        // `tree` reads all of them, a health pass those of processes without a row.
        let system = System::new(&truth.snapshot, truth.acting, &truth.foreign);
        let recorded = truth.recorded.iter().copied().filter(|&pid| !system.is_accounted_for(pid));
        prop_assert_eq!(truth.preview(&HashSet::new()), truth.preview(&recorded.collect()));
    }

    /// While processes die, the number of a session may become free, and parents are lost. An end
    /// still never exceeds the preview.
    #[test]
    fn an_end_during_which_processes_die_stays_within_the_preview(
        truth in truth(), die in prop::collection::vec(any::<prop::sample::Index>(), SCANS),
    ) {
        let preview = truth.preview(&HashSet::from([truth.root]));
        let mut die = die.into_iter();
        let done = truth.end(|machine, signalled| {
            let there = |pid: &&Pid| machine.snapshot.get(**pid).is_some();
            let alive: Vec<Pid> = signalled.keys().filter(there).copied().collect();
            let index = die.next().expect("one for each scan");
            if !alive.is_empty() {
                machine.reap(alive[index.index(alive.len())]);
            }
        });
        let is_named = |pid: &Pid| preview.ended.contains_key(pid);
        prop_assert!(done.ended.keys().all(is_named), "{:?} but {:?}", preview, done);
    }

    #[test]
    fn no_process_is_ended_without_evidence_or_in_spite_of_an_exemption(truth in truth()) {
        let facts = truth.facts(truth.recorded(), &HashSet::new());
        let done = truth.end(|_, _| {});
        truth.decide(&facts, |_, found| {
            for (pid, evidence) in done.ended {
                prop_assert!(!found.exempt.contains(pid), "{:?} is exempt", pid);
                let holds = holds(&truth.snapshot, &facts, &found, (pid, evidence));
                prop_assert!(holds, "{:?} {:?} of {:?}", pid, evidence, found);
            }
            Ok(())
        })?;
    }
}
