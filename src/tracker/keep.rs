//! What is left alone on purpose: it is recorded, as a leak with the outcome `kept`, and its row is ended as `released`.
//!
//! Nobody answers for such a process any more, so no later pass ends it as an orphan, whatever its root's row says. What was
//! left once is left for good: a later attempt on the same tree, by whomever and with whatever names, reads these rows first.

use super::{
    ending::{Found, Leave, MemberEnd, Stray},
    entry::{Entry, Root},
    outcome::descendant,
    shared::Shared,
};
use crate::{
    error::Result,
    plan::members::Evidence,
    record::{
        Because, End, EndReason, ExitStatus, InstanceId, LeakKind, Millis, NewLeak, NewProcess,
        Outcome, ProcessId, ProcessRecord, Settled, Verdict,
    },
    state::State,
};

/// Somebody who is left, and why.
struct Left<'a> {
    row: Option<ProcessId>,
    found: Found<'a>,
    evidence: Evidence,
    why: &'a str,
}

/// What there is to write of a member that an end has left.
pub(super) fn kept_member(
    by: InstanceId,
    root: &Root,
    kind: LeakKind,
    member: &MemberEnd,
    why: &str,
) -> Settled {
    let (row, evidence) = (member.row, member.evidence);
    settle(by, root, kind, &Left { row, found: member.as_found(), evidence, why })
}

/// The same of a stray whose root has ended by itself.
pub(super) fn kept_stray(by: InstanceId, root: &Root, stray: &Stray, why: &str) -> Settled {
    let (row, evidence) = (stray.row, stray.evidence);
    settle(by, root, LeakKind::Stray, &Left { row, found: stray.as_found(), evidence, why })
}

fn settle(by: InstanceId, root: &Root, kind: LeakKind, left: &Left<'_>) -> Settled {
    tracing::info!(
        "process {} of task {} is left running: {}",
        left.found.identity.pid,
        root.task.as_ref().map_or("(none)", |task| task.as_str()),
        left.why
    );
    let now = Millis::now();
    let new = left.row.is_none().then(|| {
        let new = descendant(by, root, &left.found);
        Box::new(NewProcess { state: State::Running, ..new })
    });
    let evidence = left.evidence.to_string();
    let end = End {
        reason: EndReason::Released,
        status: ExitStatus::Unobserved,
        at: now,
        error: None,
        because: Some(Because { rule: left.why.to_owned(), evidence: evidence.clone() }),
    };
    Settled {
        process: left.row.unwrap_or(ProcessId::UNRECORDED),
        verdict: Verdict::Kept(new, end),
        leak: Some(NewLeak {
            kind,
            rule: left.why.to_owned(),
            evidence,
            found_at: now,
            age: left.found.age,
            rss: Some(left.found.rss),
            outcome: Outcome::Kept,
            died_after: None,
        }),
    }
}

impl Shared {
    /// What of the tree of a recorded root, or of a descendant that stands alone, is left.
    pub(super) fn leave(&self, record: &ProcessRecord) -> Result<Leave> {
        let names = self.entry(record.id).map(|entry| entry.strays.protected.clone());
        let mut before = self.store.kept_below(record.id)?;
        if let Some(root) = record.root {
            before.extend(self.store.kept_below(root)?);
        }
        Ok(Leave { all: false, names: names.unwrap_or_default(), before })
    }

    /// The same of a root that we answer for; one that is asked to end keeps none of its strays.
    pub(super) fn leave_of(&self, entry: &Entry) -> Result<Leave> {
        let before = self.store.kept_below(entry.root.row)?;
        Ok(Leave { all: false, names: entry.strays.protected.clone(), before })
    }
}
