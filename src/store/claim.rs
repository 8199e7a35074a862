//! Claims decide which instance ends a row. Also contains the ways to close a row without a claim.
//!
//! A claim is valid only while its claimant is alive. The transaction that claims a row takes over
//! the claim of a dead claimant; it takes over that of a live one only if a person, or the owner of
//! the row, requested it ([`TakeOver`]). The former claimant then records nothing more: each of its
//! updates is conditional on its claim.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension};

use super::{
    Store,
    commit_counts::CommitCounts,
    instances, process,
    transaction::Transaction,
    transition::{Change, Live, Note, all_live, apply, apply_each, live, write_core_dump},
};
use crate::{
    error::Result,
    model::{
        End, EndReason, Event, ExitStatus, InstanceId, InstanceRecord, Millis, ProcessId,
        ProcessRecord,
    },
};

/// The claims of other instances that a claim takes over; none by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TakeOver<'a> {
    /// Instances that are known to be dead. A dead instance never comes back, so the list cannot
    /// become outdated.
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
    /// Claims rows in order to end them: those that are running, or survived the last attempt, and
    /// belong to `owner` if one is given.
    ///
    /// Returns the rows that were claimed. A row that is not among them has ended, or another
    /// instance is ending it.
    pub(crate) fn claim(
        &self,
        ids: &[ProcessId],
        by: InstanceId,
        owner: Option<InstanceId>,
        requested_by: Option<&str>,
    ) -> Result<Vec<ProcessRecord>> {
        // Most roots leave no processes, and their ends must not wait for the lock once more.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let claimed = self.claim_over(ids, by, owner, requested_by, TakeOver::default())?;
        Ok(claimed.into_iter().map(|(row, _)| row).collect())
    }

    /// Claims as [`Store::claim`] does, and takes over claims of other instances; returns each row
    /// with its former claimant.
    pub(crate) fn claim_over(
        &self,
        ids: &[ProcessId],
        by: InstanceId,
        owner: Option<InstanceId>,
        requested_by: Option<&str>,
        over: TakeOver<'_>,
    ) -> Result<Vec<(ProcessRecord, Option<InstanceId>)>> {
        self.write_counted("claim processes", |tx, counts| {
            let request = Request { by, owner, requested_by, over };
            let claimed = claim_all(tx, counts, ids, request)?;
            let record =
                |claim: Claimed| Ok((process::one(tx, tx.schema(), claim.id)?, claim.former));
            claimed.into_iter().map(record).collect()
        })
    }

    /// Claims trees that belong to `owner`. Each is a root followed by its recorded descendants,
    /// which are claimed only together with their root.
    pub(crate) fn claim_own(
        &self,
        trees: &[Vec<ProcessId>],
        owner: InstanceId,
        over: TakeOver<'_>,
    ) -> Result<Vec<ProcessId>> {
        self.write_counted("claim processes", |tx, counts| {
            let request = Request { by: owner, owner: Some(owner), requested_by: None, over };
            let roots: Vec<ProcessId> =
                trees.iter().filter_map(|tree| tree.first().copied()).collect();
            let mut claimed: Vec<ProcessId> =
                claim_all(tx, counts, &roots, request)?.into_iter().map(|claim| claim.id).collect();
            let roots: HashSet<ProcessId> = claimed.iter().copied().collect();
            let with_root =
                trees.iter().filter(|tree| tree.first().is_some_and(|root| roots.contains(root)));
            let descendants: Vec<ProcessId> =
                with_root.flat_map(|tree| &tree[1..]).copied().collect();
            claimed.extend(
                claim_all(tx, counts, &descendants, request)?.into_iter().map(|claim| claim.id),
            );
            Ok(claimed)
        })
    }

    /// Returns the claimants of the given rows that are being ended.
    pub(crate) fn claimants(&self, ids: &[ProcessId]) -> Result<HashMap<ProcessId, InstanceId>> {
        self.read("look up claims", |connection| {
            let claim = |id: &ProcessId| Ok(claimant(connection, *id)?.map(|by| (*id, by)));
            ids.iter().filter_map(|id| claim(id).transpose()).collect()
        })
    }

    /// Returns every instance except `own` that is ending a row.
    pub(crate) fn other_claimants(&self, own: InstanceId) -> Result<Vec<InstanceRecord>> {
        self.try_read("list the claimants", |connection| {
            let mut statement = connection.prepare_cached(OTHER_CLAIMANTS)?;
            let ids = statement.query_map([own.0], |row| row.get(0).map(InstanceId))?;
            ids.map(|id| instances::one(connection, self.schema(), id?)).collect()
        })
    }

    /// Voids the claims of dead instances: the rows are running again, as if they had not been
    /// claimed. Returns how many.
    pub(crate) fn void_claims(&self, dead: &[InstanceId]) -> Result<u64> {
        if dead.is_empty() {
            return Ok(0);
        }
        self.write_counted("give claims back", |tx, counts| {
            let give_back = |dead: &InstanceId| {
                let claims = "SELECT id FROM process
                    WHERE claimed_by = ?1 AND claimed_by IS NOT NULL AND state = 'ending'";
                give_back(tx, counts, claims, [dead.0])
            };
            dead.iter().map(give_back).sum()
        })
    }

    /// Takes an owner's tree back from a claimant: the root and the descendants that the claimant
    /// had claimed. Returns the person who had requested the end, if the root has not ended yet.
    pub(crate) fn take_back(
        &self,
        root: ProcessId,
        owner: InstanceId,
        claimant: Option<InstanceId>,
    ) -> Result<Option<String>> {
        self.write_counted("take a claim over", |tx, counts| {
            let claims = "SELECT id FROM process
                WHERE (id = ?1 OR root = ?1) AND owner = ?2 AND state = 'ending' AND claimed_by = ?3";
            let claimant = claimant.map(|claimant| claimant.0);
            give_back(tx, counts, claims, (root.0, owner.0, claimant))?;
            tx.prepare_cached("SELECT asked_by FROM process WHERE id = ?1 AND state = 'running'")?
                .query_one([root.0], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })
    }

    /// Records the status that the owner of a dead child has observed, whichever instance is ending
    /// the row or has ended it. Returns `false` if the row already has a status or does not belong
    /// to the owner.
    pub(crate) fn note_status(
        &self,
        id: ProcessId,
        owner: InstanceId,
        status: ExitStatus,
        core_dumped: bool,
    ) -> Result<bool> {
        self.write("record an exit status", |tx| note_status(tx, id, owner, status, core_dumped))
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

    /// Takes an owner's rows back from claimants that died before ending them; returns how many.
    pub(crate) fn give_back(&self, owner: InstanceId, dead: &[InstanceId]) -> Result<u64> {
        if dead.is_empty() {
            return Ok(0);
        }
        self.write_counted("give claims back", |tx, counts| {
            let give_back = |dead: &InstanceId| {
                let claims = "SELECT id FROM process
                    WHERE owner = ?1 AND state = 'ending' AND claimed_by = ?2";
                give_back(tx, counts, claims, (owner.0, dead.0))
            };
            dead.iter().map(give_back).sum()
        })
    }

    /// Closes rows that cannot be judged, on behalf of a person. Nothing is signalled, and how the
    /// processes ended stays unknown.
    pub(crate) fn forget(&self, ids: &[ProcessId], requested_by: &str, at: Millis) -> Result<u64> {
        let note = Note { requested_by: Some(requested_by), ..Note::default() };
        self.write_counted("forget processes", |tx, counts| {
            let mut forgotten = 0;
            for id in ids {
                if let Some(row) = live(tx, *id)? {
                    let died = Event::Died(closed(EndReason::Forgotten, at));
                    forgotten += u64::from(apply(tx, counts, &row, [died], note)?);
                }
            }
            Ok(forgotten)
        })
    }

    /// Stops tracking a row that is not being ended; the process keeps running.
    pub(crate) fn release(&self, id: ProcessId, owner: InstanceId, at: Millis) -> Result<bool> {
        self.write_counted("release a process", |tx, counts| {
            let free = |row: &Live| row.owner == owner && row.life.claimed_by().is_none();
            let row = live(tx, id)?.filter(free);
            let died = Event::Died(closed(EndReason::Released, at));
            row.map_or(Ok(false), |row| apply(tx, counts, &row, [died], Note::default()))
        })
    }
}

/// The end of a row whose process may still run.
fn closed(reason: EndReason, at: Millis) -> End {
    End { at: at.into(), status: ExitStatus::Unobserved, core_dumped: false, reason, because: None }
}

/// Gives back the claims that a query finds; returns how many.
fn give_back(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    claims: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<u64> {
    let ids = tx
        .prepare_cached(claims)?
        .query_map(params, |row| row.get(0).map(ProcessId))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut given_back = 0;
    for id in ids {
        if let Some(row) = live(tx, id)? {
            let took = apply(tx, counts, &row, [Event::GiveBack], Note::default())?;
            given_back += u64::from(took);
        }
    }
    Ok(given_back)
}

pub(super) const OTHER_CLAIMANTS: &str =
    "SELECT DISTINCT claimed_by FROM process INDEXED BY process_live_owner
     WHERE state <> 'ended' AND state = 'ending' AND claimed_by <> ?1";

/// A request to claim rows, for an instance and possibly of one owner only.
#[derive(Clone, Copy)]
struct Request<'a> {
    by: InstanceId,
    owner: Option<InstanceId>,
    requested_by: Option<&'a str>,
    over: TakeOver<'a>,
}

/// A row that was claimed.
struct Claimed {
    id: ProcessId,
    former: Option<InstanceId>,
}

/// Claims rows. Returns them in the same order, without those that have ended, belong to another
/// owner, or stay with their claimant.
fn claim_all(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    ids: &[ProcessId],
    request: Request<'_>,
) -> rusqlite::Result<Vec<Claimed>> {
    let Request { by, owner, requested_by, over } = request;
    let may_claim = |row: &Live| {
        let former = row.life.claimed_by();
        owner.is_none_or(|owner| owner == row.owner)
            && former.is_none_or(|former| over.covers(former))
    };
    let mut rows = all_live(tx, ids)?;
    rows.retain(may_claim);
    let mut claims: Vec<Claimed> =
        rows.iter().map(|row| Claimed { id: row.id, former: row.life.claimed_by() }).collect();
    let note = Note { requested_by, ..Note::default() };
    let changes = rows.into_iter().map(|row| Change { row, event: Event::Claim(by), note });
    let claimed = apply_each(tx, counts, changes)?;
    claims.retain(|claim| claimed.contains(&claim.id));
    Ok(claims)
}

fn claimant(connection: &Connection, id: ProcessId) -> rusqlite::Result<Option<InstanceId>> {
    connection
        .prepare_cached("SELECT claimed_by FROM process WHERE id = ?1 AND state = 'ending'")?
        .query_one([id.0], |row| row.get(0).map(InstanceId))
        .optional()
}

/// See [`Store::note_status`]. The reason of a row that was ended as `gone`, since its status could
/// not be observed, becomes `exited`.
pub(super) fn note_status(
    tx: &Transaction<'_>,
    id: ProcessId,
    owner: InstanceId,
    status: ExitStatus,
    core_dumped: bool,
) -> rusqlite::Result<bool> {
    if status == ExitStatus::Unobserved {
        return Ok(false);
    }
    let noted = tx
        .prepare_cached(
            "UPDATE process
         SET exit_code = ?1, exit_signal = ?2,
           end_reason = CASE end_reason WHEN 'gone' THEN 'exited' ELSE end_reason END
         WHERE id = ?3 AND owner = ?4 AND exit_code IS NULL AND exit_signal IS NULL
           AND end_reason IS NOT 'released'",
        )?
        .execute((status.code(), status.signal(), id.0, owner.0))?
        == 1;
    if noted {
        write_core_dump(tx, id, core_dumped)?;
    }
    Ok(noted)
}
