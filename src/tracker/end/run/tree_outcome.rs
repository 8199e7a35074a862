//! Results of an end, or of a scan.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::member::Member;
use crate::{
    error::Error,
    identity::{Identity, Pid},
    model::{ExitStatus, Millis, Outcome, ProcessId},
    policy::{protection::SpareReason, suspects::Doubt},
    sys::PidFd,
    tracker::{membership::process_info::ProcessInfo, runtime::tracked::Root},
};

/// What became of a tree.
#[derive(Debug)]
pub(in crate::tracker) struct TreeEnd {
    pub(in crate::tracker) root: Root,
    /// The root first, where it was checked.
    pub(in crate::tracker) members: Vec<MemberEnd>,
    /// Processes that may belong to it, and were left running.
    pub(in crate::tracker) suspects: Vec<Suspected>,
    /// Rows of the root or of recorded descendants that could not be checked; the processes were left running.
    pub(in crate::tracker) unknown: Vec<(Option<ProcessId>, Error)>,
    /// Why it is unknown whether these were all: the root's row must stay, since it leads to the others.
    pub(in crate::tracker) unseen: Option<String>,
    /// What still lives in the root's task cgroup and is not a known member: a survivor, to which the root's row leads.
    pub(in crate::tracker) outlived: Option<String>,
    /// Interrupted in its grace: what lives was asked to end, and is left as it is.
    pub(in crate::tracker) interrupted: bool,
}

/// What became of one member.
#[derive(Debug)]
pub(in crate::tracker) struct MemberEnd {
    /// Its row, where it has one.
    pub(in crate::tracker) row: Option<ProcessId>,
    pub(in crate::tracker) is_root: bool,
    pub(in crate::tracker) info: ProcessInfo,
    pub(in crate::tracker) outcome: Outcome,
    pub(in crate::tracker) status: ExitStatus,
    /// Its pidfd, where it is a zombie of this process.
    pub(in crate::tracker) own_child: Option<Arc<PidFd>>,
    pub(in crate::tracker) died_after: Option<Duration>,
    pub(in crate::tracker) obstacle: Option<String>,
    /// The rule by which it was left running.
    pub(in crate::tracker) kept: Option<SpareReason>,
    /// The rule by which another process, a keeper, has ended it: the rule of the call does not apply.
    pub(in crate::tracker) rule: Option<String>,
    /// When that happened.
    pub(in crate::tracker) at: Option<Millis>,
    /// SIGKILL was sent and is pending, however long it takes.
    pub(in crate::tracker) killed: bool,
}

/// A process that may belong to a tree.
#[derive(Debug)]
pub(in crate::tracker) struct Suspected {
    pub(in crate::tracker) pid: Pid,
    pub(in crate::tracker) start_tick: u64,
    pub(in crate::tracker) doubt: Doubt,
    pub(in crate::tracker) command: Vec<String>,
}

/// A tree as one scan shows it: what an end would find, and what a dead root left.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Preview {
    /// A member was seen that could not be pinned because it has just died, or a process appeared during the scan.
    pub(in crate::tracker) missed: bool,
    /// Something lives in the root's task cgroup that cannot be seen.
    pub(in crate::tracker) hides: bool,
    pub(in crate::tracker) members: Vec<Seen>,
    pub(in crate::tracker) suspects: Vec<Suspected>,
    pub(in crate::tracker) unknown: Vec<Error>,
}

/// A member as one scan shows it.
#[derive(Debug)]
pub(in crate::tracker) struct Seen {
    /// Its row, where it is recorded.
    pub(in crate::tracker) row: Option<ProcessId>,
    pub(in crate::tracker) is_root: bool,
    pub(in crate::tracker) alive: bool,
    pub(in crate::tracker) info: ProcessInfo,
    /// The rule by which it is left running.
    pub(in crate::tracker) kept: Option<SpareReason>,
}

impl From<Member> for Seen {
    fn from(member: Member) -> Self {
        Self {
            row: member.row,
            is_root: member.is_root,
            alive: member.is_alive(),
            info: member.info,
            kept: member.kept,
        }
    }
}

/// Records members that were found, before they are signalled; returns the rows of those that could be recorded.
pub(in crate::tracker) type Recorder<'a> =
    dyn FnMut(&Root, &[&ProcessInfo]) -> HashMap<Identity, ProcessId> + 'a;
