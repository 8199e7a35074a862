//! Claims: which instance ends a row, and the ways a row is closed without one.
//!
//! A claim belongs to a live claimant only. An operation that acts takes over the claim of a dead claimant in the transaction
//! that claims; that of a live one only where a person, or the owner of the row, requested it ([`TakeOver`]). The former
//! claimant then records nothing more: each of its updates is conditional on its claim.

use rusqlite::{Connection, OptionalExtension};

use super::{Store, instances, process, transaction::Transaction};
use crate::{
    error::Result,
    model::{EndReason, ExitStatus, InstanceId, InstanceRecord, Millis, ProcessId, ProcessRecord},
};

/// Which claims of other instances a claim takes over; by default none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TakeOver<'a> {
    /// Instances that are known to be dead. A dead instance never comes back, so the list cannot become outdated.
    pub(crate) dead: &'a [InstanceId],
    /// Whether claims of live claimants are taken over as well.
    pub(crate) live: bool,
}

impl TakeOver<'_> {
    fn covers(self, claimant: InstanceId) -> bool {
        self.live || self.dead.contains(&claimant)
    }
}

impl Store {
    /// Claims rows in order to end them: those that run, or survived the last attempt, and belong to `owner` where one is
    /// given.
    ///
    /// Returns the rows that were claimed. A row that is missing there is ended, or another instance is ending it.
    pub(crate) fn claim(
        &self,
        ids: &[ProcessId],
        by: InstanceId,
        owner: Option<InstanceId>,
        asked_by: Option<&str>,
    ) -> Result<Vec<ProcessRecord>> {
        // Most roots leave no processes: their ends must not wait for the lock once more.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let claimed = self.claim_over(ids, by, owner, asked_by, TakeOver::default())?;
        Ok(claimed.into_iter().map(|(row, _)| row).collect())
    }

    /// Claims as [`Store::claim`] does, and takes over claims of other instances; returns each row with its former claimant.
    pub(crate) fn claim_over(
        &self,
        ids: &[ProcessId],
        by: InstanceId,
        owner: Option<InstanceId>,
        asked_by: Option<&str>,
        over: TakeOver<'_>,
    ) -> Result<Vec<(ProcessRecord, Option<InstanceId>)>> {
        self.write("claim processes", |tx| {
            let mut claimed = Vec::with_capacity(ids.len());
            for id in ids {
                let claim = claim_one(tx, *id, by, owner, asked_by, over)?;
                if claim != Claim::Refused {
                    claimed.push((process::one(tx, tx.schema(), *id)?, claim.former()));
                }
            }
            Ok(claimed)
        })
    }

    /// Does the same for trees of `owner`'s own, which it knows completely except for whether they can be claimed: each is a
    /// root, then its recorded descendants, which are claimed only with their root.
    pub(crate) fn claim_own(
        &self,
        trees: &[Vec<ProcessId>],
        owner: InstanceId,
        over: TakeOver<'_>,
    ) -> Result<Vec<ProcessId>> {
        self.write("claim processes", |tx| {
            let mut claimed = Vec::with_capacity(trees.len());
            for tree in trees {
                for (index, id) in tree.iter().enumerate() {
                    let claim = claim_one(tx, *id, owner, Some(owner), None, over)?;
                    if claim != Claim::Refused {
                        claimed.push(*id);
                    } else if index == 0 {
                        break;
                    }
                }
            }
            Ok(claimed)
        })
    }

    /// Returns the claimant of each of these rows; `None` for one that is not being ended.
    pub(crate) fn claimants(&self, ids: &[ProcessId]) -> Result<Vec<Option<InstanceId>>> {
        self.read("look up claims", |connection| {
            ids.iter().map(|id| claimant(connection, *id)).collect()
        })
    }

    /// Returns every instance except `own` that is ending a row.
    pub(crate) fn other_claimants(&self, own: InstanceId) -> Result<Vec<InstanceRecord>> {
        self.glance("list the claimants", |connection| {
            let mut statement = connection.prepare_cached(OTHER_CLAIMANTS)?;
            let ids = statement.query_map([own.0], |row| row.get(0).map(InstanceId))?;
            ids.map(|id| instances::one(connection, self.schema(), id?)).collect()
        })
    }

    /// Voids the claims of dead instances: their rows are running again, as if they had not been claimed. Returns how many.
    pub(crate) fn void_claims(&self, dead: &[InstanceId]) -> Result<u64> {
        if dead.is_empty() {
            return Ok(0);
        }
        self.write("give claims back", |tx| {
            let mut statement = tx.prepare_cached(
                "UPDATE process SET state = 'running', claimed_by = NULL
                 WHERE claimed_by = ?1 AND claimed_by IS NOT NULL AND state = 'ending'",
            )?;
            dead.iter().map(|dead| Ok(statement.execute([dead.0])? as u64)).sum()
        })
    }

    /// Takes an owner's own tree back from a claimant: the root and the descendants that this one has claimed. Returns the
    /// person who had requested the end, where the root's row is still to be ended.
    pub(crate) fn take_back(
        &self,
        root: ProcessId,
        owner: InstanceId,
        claimant: Option<InstanceId>,
    ) -> Result<Option<String>> {
        self.write("take a claim over", |tx| {
            tx.prepare_cached(
                "UPDATE process SET state = 'running', claimed_by = NULL
                 WHERE (id = ?1 OR root = ?1) AND owner = ?2 AND state = 'ending' AND claimed_by = ?3",
            )?
            .execute((root.0, owner.0, claimant.map(|claimant| claimant.0)))?;
            tx.prepare_cached("SELECT asked_by FROM process WHERE id = ?1 AND state = 'running'")?
                .query_one([root.0], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })
    }

    /// Records the status that the owner of a dead child has learned, whichever instance is ending the row or has ended it.
    /// `false` where the row has a status, or does not belong to the owner.
    pub(crate) fn note_status(
        &self,
        id: ProcessId,
        owner: InstanceId,
        status: ExitStatus,
    ) -> Result<bool> {
        self.write("record an exit status", |tx| note_status(tx, id, owner, status))
    }

    /// Reports whether a row has an exit status.
    pub(crate) fn has_status(&self, id: ProcessId) -> Result<bool> {
        self.read("look up an exit status", |connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce(exit_code, exit_signal) IS NOT NULL FROM process WHERE id = ?1",
                )?
                .query_one([id.0], |row| row.get(0))
        })
    }

    /// Takes an owner's rows back from claimants that died before they had ended them; returns how many.
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

    /// Closes rows that cannot be judged, on behalf of a person. Nothing is signalled; how they ended stays unobserved.
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
        self.counters().ended(EndReason::Forgotten, forgotten);
        Ok(forgotten)
    }

    /// Stops tracking a row that is not being ended; the process keeps running.
    pub(crate) fn release(&self, id: ProcessId, owner: InstanceId, at: Millis) -> Result<bool> {
        let released = self.write("release a process", |tx| {
            tx.prepare_cached(
                "UPDATE process SET state = 'ended', end_reason = 'released', ended_at = max(?1, started_at)
                 WHERE id = ?2 AND owner = ?3 AND state IN ('running', 'survived')",
            )?
            .execute((at.0, id.0, owner.0))
            .map(|changed| changed == 1)
        })?;
        self.counters().ended(EndReason::Released, u64::from(released));
        Ok(released)
    }
}

pub(super) const OTHER_CLAIMANTS: &str =
    "SELECT DISTINCT claimed_by FROM process INDEXED BY process_live_owner
     WHERE state <> 'ended' AND state = 'ending' AND claimed_by <> ?1";

/// The result for one row that was to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It had no claimant.
    New,
    /// It had this one.
    TakenOver(InstanceId),
    /// It has ended, belongs to another owner, or stays with its claimant.
    Refused,
}

impl Claim {
    fn former(self) -> Option<InstanceId> {
        if let Self::TakenOver(former) = self { Some(former) } else { None }
    }
}

fn claim_one(
    tx: &Transaction<'_>,
    id: ProcessId,
    by: InstanceId,
    owner: Option<InstanceId>,
    asked_by: Option<&str>,
    over: TakeOver<'_>,
) -> rusqlite::Result<Claim> {
    let owner = owner.map(|owner| owner.0);
    let changed = tx
        .prepare_cached(
            "UPDATE process
             SET state = 'ending', claimed_by = ?1, asked_by = coalesce(?2, asked_by)
             WHERE id = ?3 AND state IN ('running', 'survived') AND (?4 IS NULL OR owner = ?4)",
        )?
        .execute((by.0, asked_by, id.0, owner))?;
    if changed == 1 {
        return Ok(Claim::New);
    }
    let Some(former) = claimant(tx, id)?.filter(|former| over.covers(*former)) else {
        return Ok(Claim::Refused);
    };
    let changed = tx
        .prepare_cached(
            "UPDATE process SET claimed_by = ?1, asked_by = coalesce(?2, asked_by)
             WHERE id = ?3 AND state = 'ending' AND claimed_by = ?5 AND (?4 IS NULL OR owner = ?4)",
        )?
        .execute((by.0, asked_by, id.0, owner, former.0))?;
    Ok(if changed == 1 { Claim::TakenOver(former) } else { Claim::Refused })
}

fn claimant(connection: &Connection, id: ProcessId) -> rusqlite::Result<Option<InstanceId>> {
    connection
        .prepare_cached("SELECT claimed_by FROM process WHERE id = ?1 AND state = 'ending'")?
        .query_one([id.0], |row| row.get(0).map(InstanceId))
        .optional()
}

/// See [`Store::note_status`]. A row that was ended as `gone`, since its status could not be observed, becomes one that exited.
pub(super) fn note_status(
    tx: &Transaction<'_>,
    id: ProcessId,
    owner: InstanceId,
    status: ExitStatus,
) -> rusqlite::Result<bool> {
    if status == ExitStatus::Unobserved {
        return Ok(false);
    }
    tx.prepare_cached(
        "UPDATE process
         SET exit_code = ?1, exit_signal = ?2,
           end_reason = CASE end_reason WHEN 'gone' THEN 'exited' ELSE end_reason END
         WHERE id = ?3 AND owner = ?4 AND exit_code IS NULL AND exit_signal IS NULL
           AND end_reason IS NOT 'released'",
    )?
    .execute((status.code(), status.signal(), id.0, owner.0))
    .map(|changed| changed == 1)
}
