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

/// The stage of a process's end.
#[derive(Debug)]
pub(super) enum Phase {
    /// It is alive, and was sent no signal.
    Alive,
    /// It is alive, and is left running on purpose.
    Spared(SpareReason),
    /// It was asked to end, or stopped; the first signal was sent at this time.
    Signalled(Instant),
    /// SIGKILL was sent, and stays pending; the first signal was sent at this time.
    KillSent(Instant),
    /// It may not be signalled; the first signal was sent at this time, if any was sent before.
    Refused(Error, Option<Instant>),
    Dead(Death),
}

/// How a process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Before it was sent a signal.
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
    /// Whether `cgroup.kill` of the task cgroup reaches it, whatever its uid.
    pub(super) in_task_cgroup: bool,
    /// Whether the last scan found it in the task cgroup.
    pub(super) is_listed: bool,
    /// `None` if it was gone before it could be pinned.
    pub(super) pinned: Option<Pinned>,
    /// The first step of the tree's end plan whose signal it has not been sent.
    pub(super) next_step: usize,
    /// The stop signal that it was sent last.
    pub(super) stop_signal: Option<Signal>,
    /// Whether it was sent SIGCONT without having been asked to end.
    pub(super) is_continued: bool,
    /// Whether its death is reported without polling it.
    pub(super) watched: bool,
    /// Whether it is spared and only a suspect, or a descendant of one.
    pub(super) is_suspect: bool,
    /// Whether it certainly descended from the root when it was found.
    pub(super) descends: bool,
}

impl Member {
    /// Returns a live member that was sent no signal yet.
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

    /// Returns whether it is alive, is not left running on purpose, and can be signalled or need
    /// not be.
    pub(super) fn can_be_ended(&self) -> bool {
        match self.phase {
            Phase::Alive | Phase::Signalled(_) | Phase::KillSent(_) => true,
            Phase::Refused(..) => self.in_task_cgroup,
            Phase::Spared(_) | Phase::Dead(_) => false,
        }
    }

    /// Returns when it was sent the first signal while it was alive, if it was.
    fn signalled_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Signalled(at) | Phase::KillSent(at) => Some(at),
            Phase::Refused(_, at) => at,
            Phase::Alive | Phase::Spared(_) | Phase::Dead(_) => None,
        }
    }

    /// Returns whether it was sent a signal.
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
        // An earlier SIGKILL is still pending.
        if !self.is_dying() {
            self.phase = Phase::Refused(error, self.signalled_at());
        }
    }

    /// Records that the kernel kills it with its task cgroup.
    pub(super) fn mark_killed(&mut self) {
        self.phase = Phase::KillSent(self.signalled_at().unwrap_or_else(Instant::now));
        // `cgroup.kill` signals only the leading thread (`cgroup_kill` in kernel/cgroup/cgroup.c),
        // so that the other threads get no signal if that has ended. An error does not matter,
        // since all others are killed by the cgroup.
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

    /// Returns its outcome. The state of a survivor is taken from the last snapshot.
    pub(super) fn conclude(mut self, proc: &Proc, snapshot: &Snapshot) -> MemberOutcome {
        if self.spared().is_some() {
            self.check_death();
        }
        // A dead child of this process, which it kept across an exec or has adopted. It stays a
        // zombie until its end is recorded.
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
