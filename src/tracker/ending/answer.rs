//! What an end, or a look, answers.

use std::{sync::Arc, time::Duration};

use super::{super::entry::Root, member::Member};
use crate::{
    error::Error,
    identity::{Identity, Pid},
    os::PidFd,
    plan::{doubt::Doubt, members::Evidence},
    record::{ExitStatus, Millis, Outcome, ProcessId},
};

/// What became of a tree.
#[derive(Debug)]
pub(in super::super) struct TreeEnd {
    pub(in super::super) root: Root,
    /// The root first, where it was looked at.
    pub(in super::super) members: Vec<MemberEnd>,
    /// What may belong to it, and was left alone.
    pub(in super::super) suspects: Vec<Suspected>,
    /// The root, or a recorded descendant, could not be judged; it was left alone.
    pub(in super::super) unknown: Vec<(ProcessId, Error)>,
    /// Why nobody knows whether these were all: the root's row must stay, since it leads to the others.
    pub(in super::super) unseen: Option<String>,
    /// What lives on in the root's leaf and is no known member: a survivor, to which the root's row leads.
    pub(in super::super) outlived: Option<String>,
    /// Interrupted in its grace: what lives was asked to end, and is left as it is.
    pub(in super::super) interrupted: bool,
}

/// What became of one member.
#[derive(Debug)]
pub(in super::super) struct MemberEnd {
    /// Its row, where it has one.
    pub(in super::super) row: Option<ProcessId>,
    pub(in super::super) is_root: bool,
    pub(in super::super) identity: Identity,
    pub(in super::super) evidence: Evidence,
    pub(in super::super) command: Vec<String>,
    pub(in super::super) rss: u64,
    pub(in super::super) cpu: Duration,
    pub(in super::super) age: Duration,
    pub(in super::super) outcome: Outcome,
    pub(in super::super) status: ExitStatus,
    /// Where it is a zombie of this process.
    pub(in super::super) own_child: Option<Arc<PidFd>>,
    pub(in super::super) died_after: Option<Duration>,
    pub(in super::super) obstacle: Option<String>,
    pub(in super::super) uid: u32,
    /// The rule by which it was left alone.
    pub(in super::super) kept: Option<String>,
    /// The rule by which another process has ended it, a keeper: that of the call does not apply.
    pub(in super::super) rule: Option<String>,
    /// When that was.
    pub(in super::super) at: Option<Millis>,
    /// SIGKILL is on its way, however long it takes.
    pub(in super::super) killed: bool,
}

impl MemberEnd {
    pub(in super::super) fn as_found(&self) -> Found<'_> {
        Found {
            identity: self.identity,
            command: &self.command,
            evidence: self.evidence,
            rss: self.rss,
            cpu: self.cpu,
            age: self.age,
            uid: self.uid,
        }
    }
}

/// A member that was found below a root, for whoever records it.
#[derive(Debug)]
pub(in super::super) struct Found<'a> {
    pub(in super::super) identity: Identity,
    pub(in super::super) evidence: Evidence,
    pub(in super::super) command: &'a [String],
    pub(in super::super) rss: u64,
    pub(in super::super) cpu: Duration,
    pub(in super::super) age: Duration,
    pub(in super::super) uid: u32,
}

/// A process that may belong to a tree.
#[derive(Debug)]
pub(in super::super) struct Suspected {
    pub(in super::super) pid: Pid,
    pub(in super::super) start_tick: u64,
    pub(in super::super) doubt: Doubt,
    pub(in super::super) command: Vec<String>,
}

/// What dead roots left.
#[derive(Debug)]
pub(in super::super) struct Left {
    pub(in super::super) strays: Vec<Stray>,
    /// More than these lives in the root's leaf, and cannot be seen.
    pub(in super::super) hides: bool,
    pub(in super::super) suspects: Vec<Suspected>,
}

/// A descendant of a dead root.
#[derive(Debug)]
pub(in super::super) struct Stray {
    /// An earlier pass recorded it.
    pub(in super::super) row: Option<ProcessId>,
    pub(in super::super) alive: bool,
    pub(in super::super) identity: Identity,
    pub(in super::super) evidence: Evidence,
    /// The rule by which it is left alone.
    pub(in super::super) kept: Option<String>,
    command: Vec<String>,
    rss: u64,
    cpu: Duration,
    age: Duration,
    uid: u32,
}

impl Stray {
    pub(in super::super) fn as_found(&self) -> Found<'_> {
        Found {
            identity: self.identity,
            command: &self.command,
            evidence: self.evidence,
            rss: self.rss,
            cpu: self.cpu,
            age: self.age,
            uid: self.uid,
        }
    }
}

impl From<Member> for Stray {
    fn from(member: Member) -> Self {
        Self {
            row: member.row,
            alive: member.is_alive(),
            identity: member.identity,
            evidence: member.evidence,
            kept: member.kept,
            command: member.command,
            rss: member.rss,
            cpu: member.cpu,
            age: member.age,
            uid: member.uid,
        }
    }
}

/// Who belongs to a tree, for a dry run.
#[derive(Debug, Default)]
pub(in super::super) struct Preview {
    /// A member was seen that could not be pinned, since it has just died, or came during the look.
    pub(in super::super) missed: bool,
    /// Something lives in the root's leaf that cannot be seen.
    pub(in super::super) hides: bool,
    pub(in super::super) members: Vec<Seen>,
    pub(in super::super) suspects: Vec<Suspected>,
    pub(in super::super) unknown: Vec<Error>,
}

/// One member in a dry run.
#[derive(Debug)]
pub(in super::super) struct Seen {
    pub(in super::super) pid: Pid,
    pub(in super::super) alive: bool,
    pub(in super::super) evidence: Evidence,
    pub(in super::super) command: Vec<String>,
    /// The rule by which it would be left alone.
    pub(in super::super) kept: Option<String>,
}

impl From<Member> for Seen {
    fn from(member: Member) -> Self {
        Self {
            pid: member.identity.pid,
            alive: member.is_alive(),
            evidence: member.evidence,
            kept: member.kept,
            command: member.command,
        }
    }
}

/// Records members that were found, before they get a signal; answers with their rows.
pub(in super::super) type Recorder<'a> =
    dyn FnMut(&Root, &[Found<'_>]) -> Vec<Option<ProcessId>> + 'a;
