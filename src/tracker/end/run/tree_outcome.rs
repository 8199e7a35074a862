//! Results of an end, or of a scan.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    error::Error,
    identity::{Identity, Pid},
    model::{ExitStatus, Millis, Outcome, ProcessId, RuleKey, SpareReason},
    policy::suspects::SuspectReason,
    sys::PidFd,
    tracker::{membership::process_info::ProcessInfo, runtime::tracked::Root},
};

/// The outcome of a tree.
#[derive(Debug)]
pub(in crate::tracker) struct TreeOutcome {
    pub(in crate::tracker) root: Root,
    /// The root first, if it was checked.
    pub(in crate::tracker) members: Vec<MemberOutcome>,
    /// Processes that may belong to it and were left running.
    pub(in crate::tracker) suspects: Vec<Suspected>,
    /// The root or recorded descendants that were left running, since they are exempt or could not
    /// be checked.
    pub(in crate::tracker) unknown: Vec<LeftRunning>,
    /// Why it is unknown whether these were all members; then the root's row must stay, since it
    /// leads to the others.
    pub(in crate::tracker) unseen: Option<String>,
    /// A description of live processes in the root's task cgroup that are not known members:
    /// survivors, to which the root's row leads.
    pub(in crate::tracker) outlived: Option<String>,
    /// Whether it was interrupted during its grace: live members were asked to end, and are left as
    /// they are.
    pub(in crate::tracker) interrupted: bool,
}

/// A root or a recorded descendant that was left running.
#[derive(Debug)]
pub(in crate::tracker) struct LeftRunning {
    /// Its row, if it has one.
    pub(in crate::tracker) row: Option<ProcessId>,
    pub(in crate::tracker) identity: Identity,
    pub(in crate::tracker) why: Error,
    /// Whether it is the acting process, an ancestor of it, or belongs to another instance.
    /// Otherwise it could not be checked.
    pub(in crate::tracker) is_exempt: bool,
}

/// The outcome of one member.
#[derive(Debug)]
pub(in crate::tracker) struct MemberOutcome {
    /// Its row, if it has one.
    pub(in crate::tracker) row: Option<ProcessId>,
    pub(in crate::tracker) is_root: bool,
    pub(in crate::tracker) info: ProcessInfo,
    pub(in crate::tracker) fate: Fate,
    pub(in crate::tracker) status: ExitStatus,
    pub(in crate::tracker) core_dumped: bool,
    /// The stop signal that it was sent last, by this process or by a keeper.
    pub(in crate::tracker) stop_signal: Option<i32>,
    /// Its pidfd, if it is a zombie of this process.
    pub(in crate::tracker) own_child: Option<Arc<PidFd>>,
    /// The rule by which a keeper ended it; then the rule of the call does not apply.
    pub(in crate::tracker) rule: Option<RuleKey>,
    /// When the keeper ended it.
    pub(in crate::tracker) at: Option<Millis>,
}

impl MemberOutcome {
    /// Returns the stop signal that ended it; `None` if something else did, or if that is not
    /// known.
    pub(in crate::tracker) fn ended_by(&self) -> Option<i32> {
        self.stop_signal.filter(|_| matches!(self.fate, Fate::Terminated(_)))
    }
}

/// The result of an end for one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Fate {
    /// It was dead before the first signal.
    Gone,
    /// It ended after a request to end, this long after the first signal, if known.
    Terminated(Option<Duration>),
    /// It ended after SIGKILL, this long after the first signal, if known.
    Killed(Option<Duration>),
    /// It is alive; `why` has the reason and what to do. If `kill_pending`, SIGKILL was sent and
    /// will take effect eventually.
    Survived { why: String, kill_pending: bool },
    /// It was left running on purpose.
    Spared(SpareReason),
}

impl Fate {
    pub(in crate::tracker) fn outcome(&self) -> Outcome {
        match self {
            Self::Gone => Outcome::Gone,
            Self::Terminated(_) => Outcome::Term,
            Self::Killed(_) => Outcome::Kill,
            Self::Survived { .. } => Outcome::Survived,
            Self::Spared(_) => Outcome::Kept,
        }
    }

    pub(in crate::tracker) fn has_survived(&self) -> bool {
        matches!(self, Self::Survived { .. })
    }

    /// Returns how long after the first signal it died.
    pub(in crate::tracker) fn died_after(&self) -> Option<Duration> {
        match self {
            Self::Terminated(after) | Self::Killed(after) => *after,
            Self::Gone | Self::Survived { .. } | Self::Spared(_) => None,
        }
    }
}

/// A process that may belong to a tree.
#[derive(Debug)]
pub(in crate::tracker) struct Suspected {
    pub(in crate::tracker) pid: Pid,
    pub(in crate::tracker) start_tick: u64,
    pub(in crate::tracker) reason: SuspectReason,
    pub(in crate::tracker) command: Vec<String>,
}

/// A tree as one scan shows it: the members that an end would find, or that a dead root left.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Preview {
    /// Whether a member was seen that could not be pinned because it had just died, or a process
    /// appeared during the scan.
    pub(in crate::tracker) missed: bool,
    /// Whether the root's task cgroup contains live processes that cannot be seen.
    pub(in crate::tracker) hides: bool,
    pub(in crate::tracker) members: Vec<Seen>,
    pub(in crate::tracker) suspects: Vec<Suspected>,
    pub(in crate::tracker) unknown: Vec<Error>,
}

/// A member as one scan shows it.
#[derive(Debug)]
pub(in crate::tracker) struct Seen {
    /// Its row, if it is recorded.
    pub(in crate::tracker) row: Option<ProcessId>,
    pub(in crate::tracker) is_root: bool,
    pub(in crate::tracker) alive: bool,
    pub(in crate::tracker) info: ProcessInfo,
    /// The rule by which it is left running.
    pub(in crate::tracker) spared: Option<SpareReason>,
}

/// Records members that were found, before they are signalled; returns the rows of those that could
/// be recorded.
pub(in crate::tracker) type Recorder<'a> =
    dyn FnMut(&Root, &[&ProcessInfo]) -> HashMap<Identity, ProcessId> + 'a;
