//! A member of a tree: its identity, what was done to it, and the outcome.

use std::time::{Duration, Instant};

use super::{
    survival_reason::survival_reason,
    tree_outcome::{Fate, MemberOutcome, Seen},
};
use crate::{
    error::Error,
    identity::Pid,
    model::SpareReason,
    model::{ExitStatus, ProcessId},
    sys::{PidFd, Pinned, Proc, Signal, snapshot::Snapshot},
    tracker::membership::process_info::ProcessInfo,
};

/// How far the end of a process has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// It is alive, and has got no signal.
    Alive,
    /// It is alive, and is left running on purpose.
    Spared(SpareReason),
    /// It was asked to end, or stopped: the first signal was sent then.
    Signalled(Instant),
    /// SIGKILL was sent, and is pending however long it takes; the first signal was sent then.
    KillSent(Instant),
    /// It may not be signalled; before that, the first signal was sent then, if any was.
    Refused(Error, Option<Instant>),
    Dead(Death),
}

/// How a process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Before it got a signal.
    Before,
    /// After a request to end, this long after the first signal.
    Asked(Duration),
    /// After SIGKILL, this long after the first signal.
    Killed(Duration),
}

/// A pinned process that belongs to a tree.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one process")]
pub(super) struct Member {
    pub(super) row: Option<ProcessId>,
    pub(super) is_root: bool,
    pub(super) info: ProcessInfo,
    pub(super) phase: Phase,
    /// `cgroup.kill` of the task cgroup reaches it, whatever its uid.
    pub(super) in_task_cgroup: bool,
    /// The last scan found it in the task cgroup.
    pub(super) is_listed: bool,
    /// `None` where it was gone before it could be pinned.
    pub(super) pinned: Option<Pinned>,
    /// The first step of the tree's end plan whose signal it has not had.
    pub(super) next_step: usize,
    /// The stop signal that it was sent last.
    pub(super) stop_signal: Option<Signal>,
    /// It got SIGCONT without having been asked to end.
    pub(super) is_continued: bool,
    /// Its death is reported without polling it.
    pub(super) watched: bool,
    /// It is spared, and no more than a suspect or a descendant of one.
    pub(super) is_suspect: bool,
    /// It certainly descended from the root when it was found.
    pub(super) descends: bool,
}

impl Member {
    /// Returns a living member that has got no signal yet.
    pub(super) fn new(info: ProcessInfo, pinned: Option<Pinned>) -> Self {
        Self {
            row: None,
            is_root: false,
            info,
            phase: Phase::Alive,
            in_task_cgroup: false,
            is_listed: false,
            pinned,
            next_step: 0,
            stop_signal: None,
            is_continued: false,
            watched: false,
            is_suspect: false,
            descends: false,
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.info.identity.pid
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Dead(_))
    }

    /// Returns why it is left running on purpose, if it is.
    pub(super) fn spared(&self) -> Option<&SpareReason> {
        match &self.phase {
            Phase::Spared(why) => Some(why),
            _ => None,
        }
    }

    /// Returns whether it is alive, not left running on purpose, and no signal was refused, or none is needed.
    pub(super) fn can_be_ended(&self) -> bool {
        match self.phase {
            Phase::Alive | Phase::Signalled(_) | Phase::KillSent(_) => true,
            Phase::Refused(..) => self.in_task_cgroup,
            Phase::Spared(_) | Phase::Dead(_) => false,
        }
    }

    /// Returns when the first signal was sent to it while it was alive, if any was.
    fn signalled_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Signalled(at) | Phase::KillSent(at) => Some(at),
            Phase::Refused(_, at) => at,
            Phase::Alive | Phase::Spared(_) | Phase::Dead(_) => None,
        }
    }

    /// Returns whether it has got a signal.
    pub(super) fn was_signalled(&self) -> bool {
        let died_of_it = matches!(self.phase, Phase::Dead(Death::Asked(_) | Death::Killed(_)));
        died_of_it || self.signalled_at().is_some()
    }

    /// Returns whether SIGKILL was sent to it, and it is not dead yet.
    pub(super) fn is_dying(&self) -> bool {
        matches!(self.phase, Phase::KillSent(_))
    }

    /// Leaves it running, unless it has been signalled or is dead.
    pub(super) fn spare(&mut self, why: &SpareReason) {
        if self.is_alive() && !self.was_signalled() {
            self.phase = Phase::Spared(why.clone());
        }
    }

    /// Records that it may not be signalled.
    pub(super) fn refuse(&mut self, error: Error) {
        // What was sent before is still pending.
        if !self.is_dying() {
            self.phase = Phase::Refused(error, self.signalled_at());
        }
    }

    /// Records that the kernel was asked to kill it with its task cgroup.
    pub(super) fn mark_killed(&mut self) {
        self.phase = Phase::KillSent(self.signalled_at().unwrap_or_else(Instant::now));
        // `cgroup.kill` sends its signal to the leading thread alone (`cgroup_kill` in kernel/cgroup/cgroup.c): where that has
        // ended, the other threads get none by it. A refusal is no matter: the rest is killed by the cgroup.
        if let Some(pinned) = &self.pinned {
            let _ = pinned.signal(Signal::KILL);
        }
    }

    fn mark_dead(&mut self) {
        let after = self.signalled_at().map(|at| at.elapsed());
        self.phase = Phase::Dead(match after {
            Some(after) if self.is_dying() => Death::Killed(after),
            Some(after) => Death::Asked(after),
            None => Death::Before,
        });
    }

    /// Checks whether it has died; returns whether that is new.
    pub(super) fn check_death(&mut self) -> bool {
        self.is_alive()
            && self.pinned.as_ref().is_none_or(|pinned| pinned.is_dead().unwrap_or(false))
            && self.note_death()
    }

    /// Notes that it has died; returns whether that is new.
    pub(super) fn note_death(&mut self) -> bool {
        let newly = self.is_alive();
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
                let first = self.signalled_at().unwrap_or_else(Instant::now);
                self.phase = if signal == Signal::KILL || self.is_dying() {
                    Phase::KillSent(first)
                } else {
                    Phase::Signalled(first)
                };
            }
            Err(error) if error.is_gone() => self.mark_dead(),
            Err(error) => self.refuse(error),
        }
    }

    /// Returns what became of it. Its state, where it survived, is taken from the last snapshot.
    pub(super) fn conclude(mut self, proc: &Proc, snapshot: &Snapshot) -> MemberOutcome {
        if self.spared().is_some() {
            self.check_death();
        }
        // A dead child of this process: one that it kept across an exec, or that it has adopted. It stays a zombie until its end
        // is recorded.
        let is_dead = !self.is_alive();
        let fd: Option<&PidFd> = self.pinned.as_ref().map(Pinned::fd);
        let own = fd.filter(|_| is_dead).and_then(|fd| fd.child_status(false).ok().flatten());
        let status = own.or_else(|| fd?.exit_info()).unwrap_or(ExitStatus::Unobserved);
        let core_dumped =
            status.signal().is_some() && fd.is_some_and(|fd| fd.has_dumped_core() == Some(true));
        let kill_pending = self.is_dying();
        let fate = match self.phase {
            Phase::Dead(Death::Before) => Fate::Gone,
            Phase::Dead(Death::Asked(after)) => Fate::Terminated(Some(after)),
            Phase::Dead(Death::Killed(after)) => Fate::Killed(Some(after)),
            Phase::Spared(ref why) => Fate::Spared(why.clone()),
            Phase::Alive | Phase::Signalled(_) | Phase::KillSent(_) | Phase::Refused(..) => {
                let refused = match &self.phase {
                    Phase::Refused(error, _) => Some(error),
                    _ => None,
                };
                let why = survival_reason(proc, (self.pid(), self.info.uid), refused, snapshot);
                Fate::Survived { why, kill_pending }
            }
        };
        MemberOutcome {
            row: self.row,
            is_root: self.is_root,
            info: self.info,
            fate,
            status,
            core_dumped,
            stop_signal: self.stop_signal.map(Signal::number),
            own_child: self.pinned.filter(|_| own.is_some()).map(Pinned::into_fd),
            rule: None,
            at: None,
        }
    }
}

impl From<Member> for Seen {
    fn from(member: Member) -> Self {
        Self {
            row: member.row,
            is_root: member.is_root,
            alive: member.is_alive(),
            spared: member.spared().cloned(),
            info: member.info,
        }
    }
}
