//! Claims: who ends a row, and the ways a row is closed without one.

use super::{Store, query, transaction::Transaction};
use crate::{
    error::Result,
    record::{EndReason, InstanceId, Millis, ProcessId, ProcessRecord},
};

impl Store {
    /// Sets out to end rows: those that run, or survived the last attempt, and belong to `owner` where one is given.
    ///
    /// Returns the rows that were claimed. A row that is missing there is ended, or somebody else is ending it.
    pub(crate) fn claim(
        &self,
        ids: &[ProcessId],
        by: InstanceId,
        owner: Option<InstanceId>,
        asked_by: Option<&str>,
    ) -> Result<Vec<ProcessRecord>> {
        // Most roots leave nobody: their ends must not wait for the lock once more.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.write("claim processes", |tx| {
            let mut claimed = Vec::with_capacity(ids.len());
            for id in ids {
                if claim_one(tx, *id, by, owner, asked_by)? {
                    claimed.push(query::one(tx, tx.schema(), *id)?);
                }
            }
            Ok(claimed)
        })
    }

    /// The same for rows of `owner`'s own, of which it knows all but whether they can be claimed.
    pub(crate) fn claim_own(&self, ids: &[ProcessId], owner: InstanceId) -> Result<Vec<ProcessId>> {
        self.write("claim processes", |tx| {
            let mut claimed = Vec::with_capacity(ids.len());
            for id in ids {
                if claim_one(tx, *id, owner, Some(owner), None)? {
                    claimed.push(*id);
                }
            }
            Ok(claimed)
        })
    }

    /// An owner takes its rows back from claimants that died before they had ended them; returns how many.
    pub(crate) fn give_back(&self, owner: InstanceId, dead: &[InstanceId]) -> Result<u64> {
        if dead.is_empty() {
            return Ok(0);
        }
        self.write("give claims back", |tx| {
            let mut statement = tx.prepare_cached(
                "UPDATE process SET state = 'running', claimed_by = NULL
                 WHERE owner = ?1 AND state = 'ending' AND claimed_by = ?2",
            )?;
            dead.iter().map(|dead| Ok(statement.execute((owner.0, dead.0))? as u64)).sum()
        })
    }

    /// A person closes rows that cannot be judged. Nothing is signalled; how they ended stays unobserved.
    pub(crate) fn forget(&self, ids: &[ProcessId], asked_by: &str, at: Millis) -> Result<u64> {
        let forgotten = self.write("forget processes", |tx| {
            let mut forget = tx.prepare_cached(
                "UPDATE process
                 SET state = 'ended', end_reason = 'forgotten', ended_at = max(?1, started_at), asked_by = ?2,
                   claimed_by = NULL, exit_code = NULL, exit_signal = NULL
                 WHERE id = ?3 AND state IN ('running', 'ending', 'survived')",
            )?;
            let mut forgotten = 0;
            for id in ids {
                forgotten += forget.execute((at.0, asked_by, id.0))? as u64;
            }
            Ok(forgotten)
        })?;
        self.meter().ended(EndReason::Forgotten, forgotten);
        Ok(forgotten)
    }

    /// Its owner stops tracking a row that nobody is ending; the process runs on.
    pub(crate) fn release(&self, id: ProcessId, owner: InstanceId, at: Millis) -> Result<bool> {
        let released = self.write("release a process", |tx| {
            tx.prepare_cached(
                "UPDATE process SET state = 'ended', end_reason = 'released', ended_at = max(?1, started_at)
                 WHERE id = ?2 AND owner = ?3 AND state IN ('running', 'survived')",
            )?
            .execute((at.0, id.0, owner.0))
            .map(|changed| changed == 1)
        })?;
        self.meter().ended(EndReason::Released, u64::from(released));
        Ok(released)
    }
}

fn claim_one(
    tx: &Transaction<'_>,
    id: ProcessId,
    by: InstanceId,
    owner: Option<InstanceId>,
    asked_by: Option<&str>,
) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "UPDATE process
         SET state = 'ending', claimed_by = ?1, asked_by = coalesce(?2, asked_by)
         WHERE id = ?3 AND state IN ('running', 'survived') AND (?4 IS NULL OR owner = ?4)",
    )?
    .execute((by.0, asked_by, id.0, owner.map(|owner| owner.0)))
    .map(|changed| changed == 1)
}
