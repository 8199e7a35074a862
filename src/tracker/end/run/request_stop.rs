//! Requests that a tree end: by SIGTERM to all members at once, unless the caller wants another signal, or the root first.

use std::time::{Duration, Instant};

use super::{
    member::{Death, Member, Phase},
    state::Work,
};
use crate::sys::Signal;

/// How trees are asked to end.
#[derive(Clone, Copy, Debug)]
pub(in crate::tracker) struct StopRequest {
    pub(in crate::tracker) signal: Signal,
    /// The root alone is asked first; the other members once it has ended, or its grace is over. They then have a grace of
    /// their own.
    pub(in crate::tracker) root_first: bool,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { signal: Signal::TERM, root_first: false }
    }
}

impl Work {
    /// Sends the signal, then SIGCONT, to each member that has had none yet, or to the root alone while the others wait for it.
    ///
    /// A program that gets SIGTERM may end its helpers before their turn comes: `nginx` its workers, a browser its renderers.
    /// They were alive when they were found, and what was sent to their tree has ended them.
    pub(super) fn ask(&mut self, signal: Signal) {
        let root_only = self.waits_for_root;
        let mut begun = self.members.iter().any(Member::was_signalled);
        let asked = |member: &&mut Member| needs_request(member) && (member.is_root || !root_only);
        for member in self.alive().filter(asked) {
            member.signal(signal);
            member.signal(Signal::CONT);
            if begun && matches!(member.phase, Phase::Dead(Death::Before)) {
                member.phase = Phase::Dead(Death::Asked(Duration::ZERO));
            }
            begun |= member.was_signalled();
        }
    }
}

impl Work {
    /// Lets the members other than the root wait for it, where it can be asked.
    pub(super) fn wait_for_root(&mut self) {
        self.waits_for_root = self.has_root_to_ask();
    }

    /// Ends that wait once the root has ended, or `deadline`, the end of its grace, is over.
    pub(super) fn stop_waiting_for_root(&mut self, deadline: Instant) {
        let now = Instant::now();
        if self.waits_for_root && (!self.has_root_to_ask() || deadline <= now) {
            self.waits_for_root = false;
            self.began = now;
        }
    }

    fn has_root_to_ask(&self) -> bool {
        self.members.iter().any(|member| member.is_root && member.can_be_ended())
    }
}

fn needs_request(member: &Member) -> bool {
    matches!(member.phase, Phase::Alive)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own children, which no ledger knows")]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::{
        identity::{Identity, Pid},
        model::{Limits, Observer, Origin, Outcome, ProcessId},
        policy::membership::Evidence,
        sys::{Pinned, Proc, current_place, snapshot::Snapshot},
        tracker::{
            end::run::{Leave, Tree, World, state::Work},
            membership::process_info::ProcessInfo,
            runtime::tracked::{Root, Words},
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
            limits: Limits {
                survive: false,
                grace: Duration::ZERO,
                max_runtime: None,
                max_rss: None,
            },
            command: Words::default(),
            arguments: true,
        }
    }

    /// Returns the outcome of each member of a tree of three when `gone` of them was reaped between the scan and the first
    /// signal.
    fn outcomes(gone: usize) -> Vec<Outcome> {
        let (proc, place) = (Proc::open().expect("/proc"), current_place().expect("a place"));
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let observer = Observer { place, uid: rustix::process::geteuid().as_raw() };
        let world = World {
            proc: &proc,
            observer,
            own,
            ancestors: Vec::new(),
            foreign: Vec::new(),
            protected: &[],
        };
        let mut children: Vec<(Child, Pid)> = (0..3).map(|_| sleeper()).collect();
        let pin = |pid| Pinned::open(&proc, place, pid).expect("seen").expect("there");
        let pinned: Vec<Pinned> = children.iter().map(|&(_, pid)| pin(pid)).collect();
        let root = root(pinned[0].identity, observer.uid);
        let member = |pinned: Pinned| {
            let info = ProcessInfo::observed(&proc, &pinned, &root, Evidence::Session);
            Member::new(info, Some(pinned))
        };
        let members: Vec<Member> = pinned.into_iter().map(member).collect();
        let tree = Tree { root, pidfd: None, recorded: Vec::new(), leave: Leave::default() };
        let mut work = Work::new(&world, tree);
        work.members = members;
        children[gone].0.kill().expect("killed");
        children[gone].0.wait().expect("reaped");
        work.ask(Signal::TERM);
        for (child, _) in &mut children {
            child.wait().expect("ended");
        }
        for member in &mut work.members {
            member.look();
        }
        let end = work.finish(&world, &Snapshot::default(), None);
        end.members.iter().map(|member| member.fate.outcome()).collect()
    }

    #[test]
    fn a_member_that_ends_along_with_another_before_its_turn_is_reported_as_terminated() {
        assert_eq!(outcomes(2), [Outcome::Term; 3]);
    }

    #[test]
    fn a_member_that_was_gone_before_the_first_signal_is_reported_as_gone() {
        assert_eq!(outcomes(0), [Outcome::Gone, Outcome::Term, Outcome::Term]);
    }
}
