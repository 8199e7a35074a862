//! Asks the members of a tree to end, step by step.

use std::time::{Duration, Instant};

use super::{
    end_plan::Recipients,
    member::{Death, Member, Phase},
    state::TreeRun,
};
use crate::sys::{Pinned, Signal, snapshot::Snapshot};

impl TreeRun {
    /// Sends the signal of the current step, then SIGCONT, to each recipient that was not sent it
    /// yet. Returns whether this begins the step, so that its wait begins now.
    ///
    /// A program that gets SIGTERM may end its helpers before they are signalled, as `nginx` ends
    /// its workers and a browser its renderers. They were alive when they were found, so they count
    /// as ended by the signals to their tree. `last` is the last scan.
    pub(super) fn ask(&mut self, last: &Snapshot) -> bool {
        let Some((number, step)) = self.stage.step(&self.steps) else { return false };
        let begins = self.members.iter().all(|member| member.next_step <= number);
        let mut begun = self.members.iter().any(Member::was_signalled);
        let is_asked = |member: &&mut Member| {
            member.next_step <= number
                && matches!(member.phase, Phase::Alive | Phase::Signalled(_))
                && match step.to {
                    Recipients::All => true,
                    Recipients::Root => member.is_root,
                    Recipients::Descendants => !member.is_root,
                }
        };
        let mut asked = false;
        for member in self.alive().filter(is_asked) {
            asked = true;
            member.next_step = number + 1;
            member.stop_signal = Some(step.signal);
            member.signal(step.signal);
            member.signal(Signal::CONT);
            if begun && matches!(member.phase, Phase::Dead(Death::Before)) {
                member.phase = Phase::Dead(Death::Asked(Duration::ZERO));
            }
            begun |= member.was_signalled();
        }
        if step.to == Recipients::Root {
            self.continue_helpers(last);
        }
        begins && asked
    }

    /// Continues stopped descendants, such as those of a suspended tree, since the root may wait
    /// for them before it ends.
    ///
    /// The last scan shows which are stopped. The one that found them may not: on a busy machine a
    /// process that was sent SIGSTOP stops only when it is scheduled.
    fn continue_helpers(&mut self, last: &Snapshot) {
        for member in self.alive().filter(|member| !member.is_root && !member.is_continued) {
            let may_be_stopped = |pinned: &&Pinned| {
                let seen = last.get(pinned.pid()).unwrap_or(&pinned.stat);
                // A process that waits in vfork(2) for its child to call exec stops only after
                // that.
                seen.is_stopped() || seen.is_uninterruptible()
            };
            if let Some(pinned) = member.pinned.as_ref().filter(may_be_stopped) {
                // A process that may not be signalled is reported when it is asked to end.
                let _ = pinned.signal(Signal::CONT);
                member.is_continued = true;
            }
        }
    }

    /// Goes on to the next step of the plan, if there is one and the current one is over.
    pub(super) fn take_next_step(&mut self, progress: Instant) {
        let now = Instant::now();
        let Some((_, step)) = self.stage.step(&self.steps) else { return };
        let has_ended = !self.has_root_to_ask();
        let is_over = has_ended && step.to == Recipients::Root
            || self.deadline(progress).is_some_and(|deadline| deadline <= now);
        if is_over && let Some(next) = self.stage.next_step(&self.steps, has_ended, now) {
            self.stage = next;
        }
    }

    /// Returns when the current step is over; `None` if the tree is being killed or was
    /// interrupted.
    pub(super) fn deadline(&self, progress: Instant) -> Option<Instant> {
        self.stage.deadline(&self.steps, progress)
    }

    pub(super) fn has_root_to_ask(&self) -> bool {
        self.members.iter().any(|member| member.is_root && member.can_be_ended())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "children of a test, which are in no ledger")]
mod tests {
    use std::{
        borrow::Cow,
        collections::HashMap,
        process::{Child, Command},
    };

    use super::*;
    use crate::{
        identity::{Identity, Pid},
        model::Evidence,
        model::{EndPlan, Limits, Observer, Origin, Outcome, ProcessId},
        sys::{Proc, current_pid_scope},
        tracker::{
            end::run::{
                EndContext, Exemptions, TreeTarget,
                end_plan::{Stage, steps},
                phases::Run,
                state::TreeRun,
            },
            membership::process_info::ProcessInfo,
            runtime::tracked::{CompactCommand, Root},
        },
    };

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("3600").spawn().expect("sleep");
        let pid = Pid::new(i64::from(child.id())).expect("a pid");
        (child, pid)
    }

    fn root(identity: Identity, uid: u32) -> Root {
        Root {
            row: ProcessId(1),
            task: None,
            identity,
            token: None,
            uid,
            session: None,
            cgroup: None,
            keeper: None,
            origin: Origin::Spawned,
            containment: crate::model::Containment::Session,
            limits: Limits::with_grace(Duration::ZERO),
            end_plan: EndPlan::default(),
            command: CompactCommand::default(),
            arguments: true,
        }
    }

    /// Returns a tree of three members, their processes, and a context to end them in.
    fn tree_of_three(proc: &Proc) -> (TreeRun, Vec<(Child, Pid)>, EndContext<'_>) {
        let scope = current_pid_scope().expect("a scope");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let observer = Observer { scope, uid: rustix::process::geteuid().as_raw() };
        let context = EndContext {
            proc,
            observer,
            own,
            ancestors: Vec::new(),
            foreign: Vec::new(),
            protected: &[],
        };
        let children: Vec<(Child, Pid)> = (0..3).map(|_| sleeper()).collect();
        let pin = |pid| Pinned::open(proc, scope, pid).expect("seen").expect("there");
        let pinned: Vec<Pinned> = children.iter().map(|&(_, pid)| pin(pid)).collect();
        let root = root(pinned[0].identity, observer.uid);
        let member = |pinned: Pinned| {
            let info = ProcessInfo::observed(proc, &pinned, &root, Evidence::Session);
            Member::new(info, Some(pinned))
        };
        let members: Vec<Member> = pinned.into_iter().map(member).collect();
        let tree = TreeTarget {
            root,
            pidfd: None,
            recorded: Vec::new(),
            exemptions: Exemptions::default(),
        };
        let mut tree = TreeRun::new(&context, tree);
        tree.members = members;
        (tree, children, context)
    }

    fn wait_for_all(children: &mut [(Child, Pid)]) {
        for (child, _) in children {
            child.wait().expect("ended");
        }
    }

    /// Returns the outcome of each member of a tree of three, of which member `gone` was reaped
    /// between the scan and the first signal.
    fn outcomes(gone: usize) -> Vec<Outcome> {
        let proc = Proc::open().expect("/proc");
        let (mut tree, mut children, context) = tree_of_three(&proc);
        children[gone].0.kill().expect("killed");
        children[gone].0.wait().expect("reaped");
        tree.ask(&Snapshot::default());
        wait_for_all(&mut children);
        for member in &mut tree.members {
            member.check_death();
        }
        let end = tree.finish(&context, &Snapshot::default(), None);
        end.members.iter().map(|member| member.fate.outcome()).collect()
    }

    #[test]
    fn the_grace_of_a_tree_began_before_its_signal_was_sent() {
        let proc = Proc::open().expect("/proc");
        let (mut tree, mut children, context) = tree_of_three(&proc);
        tree.steps = steps(&EndPlan::default(), Duration::from_mins(1));
        let since = |tree: &TreeRun| match tree.stage {
            Stage::Asking { since, .. } => since,
            other => panic!("{other:?}"),
        };
        let before = since(&tree);
        let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
        let mut run = Run::new(Cow::Borrowed(&context), vec![tree], &mut recorder);
        run.ask_new();
        assert!(since(&run.trees[0]) > before);
        wait_for_all(&mut children);
    }

    #[test]
    fn a_step_begins_when_its_signal_is_first_sent() {
        let proc = Proc::open().expect("/proc");
        let (mut tree, mut children, _context) = tree_of_three(&proc);
        assert!(tree.ask(&Snapshot::default()));
        assert!(!tree.ask(&Snapshot::default()), "all of them were asked");
        let new = tree.members.pop().expect("a member");
        tree.members.push(Member::new(new.info, new.pinned));
        assert!(
            !tree.ask(&Snapshot::default()),
            "a new member does not begin the wait of the others again"
        );
        assert_eq!(tree.members[2].next_step, 1);
        wait_for_all(&mut children);
    }

    #[test]
    fn a_helper_that_stopped_after_it_was_found_was_not_continued_for_its_root() {
        let proc = Proc::open().expect("/proc");
        let (mut tree, mut children, _context) = tree_of_three(&proc);
        tree.members[0].is_root = true;
        tree.steps = steps(&EndPlan::new().root_first(true), Duration::from_mins(1));
        let helper = children[1].1;
        let is_stopped = || proc.stat(helper).expect("read").is_some_and(|stat| stat.is_stopped());
        let becomes = |stopped| {
            let mut turns = 0..10_000;
            turns.any(|_| {
                is_stopped() == stopped || {
                    std::thread::sleep(Duration::from_millis(1));
                    false
                }
            })
        };
        tree.members[1].pinned.as_ref().expect("pinned").signal(Signal::STOP).expect("sent");
        assert!(becomes(true));
        tree.ask(&proc.snapshot().expect("read"));
        let continued = becomes(false);
        for (child, _) in &mut children[1..] {
            child.kill().expect("killed");
        }
        wait_for_all(&mut children);
        assert!(continued);
    }

    #[test]
    fn a_member_that_ends_before_its_signal_is_sent_is_reported_as_terminated() {
        assert_eq!(outcomes(2), [Outcome::Term; 3]);
    }

    #[test]
    fn a_member_that_was_gone_before_the_first_signal_is_reported_as_gone() {
        assert_eq!(outcomes(0), [Outcome::Gone, Outcome::Term, Outcome::Term]);
    }
}
