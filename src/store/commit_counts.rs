//! The counts of a transaction, which are added to the counters only after its commit.

use super::{Store, transaction::Transaction};
use crate::{
    error::Result,
    model::{EndReason, LeakKind, Outcome},
};

/// Ends and leaks that one transaction writes.
#[derive(Debug, Default)]
pub(super) struct CommitCounts {
    ends: Vec<EndReason>,
    leaks: Vec<(LeakKind, Outcome)>,
}

impl CommitCounts {
    pub(super) fn ended(&mut self, reason: EndReason) {
        self.ends.push(reason);
    }

    pub(super) fn leaked(&mut self, kind: LeakKind, outcome: Outcome) {
        self.leaks.push((kind, outcome));
    }
}

impl Store {
    /// Writes like [`Store::write`], and counts what was committed.
    pub(super) fn write_counted<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>, &mut CommitCounts) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut counts = CommitCounts::default();
        let answer = self.write(doing, |tx| work(tx, &mut counts))?;
        counts.ends.into_iter().for_each(|reason| self.counters().ended(reason, 1));
        counts.leaks.into_iter().for_each(|(kind, outcome)| self.counters().leaked(kind, outcome));
        Ok(answer)
    }
}
