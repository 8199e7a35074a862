//! A member of a tree: its identity, what was done to it, and the outcome.

use std::time::{Duration, Instant};

use super::{survival_reason::obstacle, tree_outcome::MemberEnd};
use crate::{
    error::Error,
    identity::Pid,
    model::{ExitStatus, Outcome, ProcessId},
    policy::protection::SpareReason,
    sys::{PidFd, Pinned, Proc, Signal, snapshot::Snapshot},
    tracker::membership::process_info::ProcessInfo,
};

/// A pinned process that belongs to a tree.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one process")]
pub(super) struct Member {
    pub(super) row: Option<ProcessId>,
    pub(super) is_root: bool,
    pub(super) info: ProcessInfo,
    /// `cgroup.kill` of the task cgroup reaches it, whatever its uid.
    pub(super) in_leaf: bool,
    /// The last scan found it in the task cgroup.
    pub(super) is_listed: bool,
    /// `None` where it was gone before it could be pinned.
    pub(super) pinned: Option<Pinned>,
    pub(super) dead: bool,
    /// Its death is reported without polling it.
    pub(super) watched: bool,
    pub(super) signalled: Option<Instant>,
    pub(super) killed: bool,
    pub(super) died_after: Option<Duration>,
    pub(super) refused: Option<Error>,
    /// The rule by which it is left running.
    pub(super) kept: Option<SpareReason>,
    /// It is spared, and no more than a suspect or a descendant of one.
    pub(super) is_suspect: bool,
    /// It certainly descended from the root when it was found.
    pub(super) descends: bool,
}

impl Member {
    /// Returns a member that has got no signal yet.
    pub(super) fn new(info: ProcessInfo, pinned: Option<Pinned>) -> Self {
        Self {
            row: None,
            is_root: false,
            info,
            in_leaf: false,
            is_listed: false,
            pinned,
            dead: false,
            watched: false,
            signalled: None,
            killed: false,
            died_after: None,
            refused: None,
            kept: None,
            is_suspect: false,
            descends: false,
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.info.identity.pid
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.dead
    }

    /// Whether it is alive, not left running on purpose, and no signal was refused, or none is needed.
    pub(super) fn can_be_ended(&self) -> bool {
        !self.dead && self.kept.is_none() && (self.refused.is_none() || self.in_leaf)
    }

    /// Records that the kernel was asked to kill it with its task cgroup.
    pub(super) fn mark_killed(&mut self) {
        self.signalled.get_or_insert_with(Instant::now);
        self.killed = true;
        self.refused = None;
        // `cgroup.kill` sends its signal to the leading thread alone (`cgroup_kill` in kernel/cgroup/cgroup.c): where that has
        // ended, the other threads get none by it. A refusal is no matter: the rest is killed by the leaf.
        if let Some(pinned) = &self.pinned {
            let _ = pinned.signal(Signal::KILL);
        }
    }

    pub(super) fn mark_dead(&mut self) {
        self.dead = true;
        self.died_after = self.signalled.map(|at| at.elapsed());
    }

    /// Checks whether it has died; returns whether that is new.
    pub(super) fn look(&mut self) -> bool {
        let newly = !self.dead
            && self.pinned.as_ref().is_none_or(|pinned| pinned.is_dead().unwrap_or(false));
        if newly {
            self.mark_dead();
        }
        newly
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        let open = self.can_be_ended();
        let Some(pinned) = self.pinned.as_ref().filter(|_| open) else { return };
        match pinned.signal(signal) {
            Ok(()) => {
                self.signalled.get_or_insert_with(Instant::now);
                self.killed |= signal == Signal::KILL;
            }
            Err(error) if error.is_gone() => self.mark_dead(),
            Err(error) => self.refused = Some(error),
        }
    }
}

pub(super) fn conclude(proc: &Proc, mut member: Member, snapshot: &Snapshot) -> MemberEnd {
    if member.kept.is_some() {
        member.look();
    }
    let outcome = match (member.dead, member.signalled.is_some(), member.killed) {
        (false, _, _) if member.kept.is_some() => Outcome::Kept,
        (false, _, _) => Outcome::Survived,
        (true, false, _) => Outcome::Gone,
        (true, true, false) => Outcome::Term,
        (true, true, true) => Outcome::Kill,
    };
    let obstacle = (outcome == Outcome::Survived).then(|| obstacle(proc, &member, snapshot));
    // A dead child of this process: one that it kept across an exec, or that it has adopted. It stays a zombie until its end is
    // recorded.
    let fd: Option<&PidFd> = member.pinned.as_ref().map(Pinned::fd);
    let own = fd.filter(|_| member.dead).and_then(|fd| fd.child_status(false).ok().flatten());
    let status = own.or_else(|| fd?.exit_info()).unwrap_or(ExitStatus::Unobserved);
    MemberEnd {
        row: member.row,
        is_root: member.is_root,
        info: member.info,
        outcome,
        status,
        own_child: member.pinned.filter(|_| own.is_some()).map(Pinned::into_fd),
        died_after: member.died_after,
        obstacle,
        kept: member.kept,
        rule: None,
        at: None,
        killed: member.killed,
    }
}
