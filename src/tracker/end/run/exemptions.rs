//! Processes that a scan leaves running on purpose: programs with protected names and their
//! descendants, the strays of a job that keeps them, and processes that were left before.

use super::{
    member::Member,
    state::{EndContext, TreeRun},
    tree_outcome::LeftRunning,
};
use crate::{
    error::{Error, Kind},
    identity::Pid,
    model::{Named, Origin},
    policy::{name_match::Program, protection::protecting},
    sys::Proc,
};

impl TreeRun {
    /// Returns whether any process may have to be left running. Usually there is none, and no
    /// program is examined.
    pub(super) fn may_leave(&self, context: &EndContext<'_>) -> bool {
        self.exemptions.all
            || !(self.exemptions.names.is_empty()
                && self.exemptions.before.is_empty()
                && context.protected.is_empty())
    }

    /// Returns whether any process of the tree is left running on purpose, so that it cannot be
    /// ended by one action on all its members.
    pub(super) fn has_protected(&self) -> bool {
        self.left_before || self.members.iter().any(|member| member.spared().is_some())
    }

    /// Returns whether a member was killed and is not dead yet.
    pub(super) fn is_dying(&self) -> bool {
        self.members.iter().any(Member::is_dying)
    }

    /// Returns whether its root is one that a caller asked to end, and not a descendant without a
    /// live root.
    pub(super) fn has_true_root(&self) -> bool {
        self.root.origin != Origin::Descendant
    }

    /// Leaves all recorded descendants running, since a failed scan leaves it unknown which of them
    /// must not be signalled.
    pub(super) fn doubt_recorded(&mut self, context: &EndContext<'_>, error: &Error) {
        if !self.may_leave(context) {
            return;
        }
        let (doubtful, sure): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|member| member.is_alive() && !(member.is_root && self.has_true_root()));
        let why = || Error::new(Kind::Unknown, error.to_string());
        let doubtful = doubtful.into_iter().filter(|member| member.row.is_some());
        let left = doubtful.map(|member| LeftRunning {
            row: member.row,
            identity: member.info.identity,
            why: why(),
            is_exempt: false,
        });
        self.unknown.extend(left);
        self.pids.clear();
        for member in sure {
            self.push(member);
        }
    }
}

/// Returns the part of a process by which one of the names protects it.
pub(in crate::tracker) fn protected(proc: &Proc, pid: Pid, names: &[&[String]]) -> Option<Named> {
    if names.iter().all(|names| names.is_empty()) {
        return None;
    }
    let argv = proc.command(pid).ok().flatten().unwrap_or_default();
    protecting(&Program { executable: proc.executable(pid), argv }, names)
}
