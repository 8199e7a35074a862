//! The rows of dead instances, taken over in one immediate transaction.
//!
//! Two reapers never get the same row: the second one's transaction begins after the first one's commit, and then the rows have
//! another owner. A reaper that dies loses its claims to the next one in the same way.

use std::collections::HashMap;

use super::{Store, instances, process, settle, tally::Tally, transaction::Transaction};
use crate::{
    error::Result,
    model::{
        DeadInstance, End, EndReason, ExitStatus, InstanceId, Millis, OrphanClaim, ProcessId,
        state::State,
    },
};

/// The part of a live row that decides what happens to it.
#[derive(Clone, Copy, Debug)]
struct Left {
    id: ProcessId,
    owner: InstanceId,
    claimed_by: Option<InstanceId>,
    state: State,
    survive: bool,
    /// Whether its owner was a run of the claimant's program.
    same_program: bool,
    uid: u32,
}

/// What happens to a live row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Leave,
    /// Certainly gone, without a check.
    Gone(EndReason),
    /// Marked `survive`, and of our own program.
    Adopt,
    /// To be ended by the claimant.
    Claim,
    /// Its claimant is dead, and it does not belong to us: treated as if it had not been claimed.
    GiveBack,
}

impl Store {
    /// Marks dead instances as stopped and takes over their rows; `uid_limit` skips rows of other uids.
    ///
    /// A row whose owner is alive, but whose claimant is dead, is given back to its owner.
    pub(crate) fn claim_orphans(
        &self,
        by: InstanceId,
        program: &str,
        uid_limit: Option<u32>,
        dead: &[DeadInstance],
        at: Millis,
    ) -> Result<OrphanClaim> {
        let dead: HashMap<InstanceId, DeadInstance> =
            dead.iter().filter(|dead| dead.id != by).map(|dead| (dead.id, *dead)).collect();
        if dead.is_empty() {
            return Ok(OrphanClaim::default());
        }
        self.write_counted("claim orphans", |tx, tally| {
            for dead in dead.values() {
                instances::mark_stopped(tx, dead.id, dead.how, at)?;
            }
            let mut claim = OrphanClaim::default();
            for left in live_rows(tx, program)? {
                if uid_limit.is_none_or(|uid| uid == left.uid) {
                    let fate = fate(&left, &dead);
                    if dead.get(&left.owner).is_some_and(|owner| owner.replaced) {
                        claim.replaced.insert(left.id);
                    }
                    apply(tx, tally, by, at, &left, fate, &mut claim)?;
                }
            }
            Ok(claim)
        })
    }
}

fn fate(left: &Left, dead: &HashMap<InstanceId, DeadInstance>) -> Fate {
    let claimant_dead = left.claimed_by.is_some_and(|by| dead.contains_key(&by));
    if left.state == State::Ending && !claimant_dead {
        return Fate::Leave;
    }
    let Some(owner) = dead.get(&left.owner) else {
        return if claimant_dead { Fate::GiveBack } else { Fate::Leave };
    };
    match (owner.processes_gone, left.survive, left.same_program) {
        (Some(reason), ..) => Fate::Gone(reason),
        (None, false, _) => Fate::Claim,
        (None, true, true) => Fate::Adopt,
        (None, true, false) if claimant_dead => Fate::GiveBack,
        (None, true, false) => Fate::Leave,
    }
}

pub(super) const LIVE_ROWS: &str =
    "SELECT p.id, p.owner, p.claimed_by, p.state = 'ending', p.state = 'survived', p.survive,
           o.program = ?1, p.uid
         FROM process AS p INDEXED BY process_live_owner
         CROSS JOIN instance AS o ON o.id = p.owner
         WHERE p.state <> 'ended'";

/// Returns every live row; the index has no others, however long the history is.
fn live_rows(tx: &Transaction<'_>, program: &str) -> rusqlite::Result<Vec<Left>> {
    tx.prepare_cached(LIVE_ROWS)?
        .query_map([program], |row| {
            let state = match (row.get(3)?, row.get(4)?) {
                (true, _) => State::Ending,
                (_, true) => State::Survived,
                (false, false) => State::Running,
            };
            Ok(Left {
                id: ProcessId(row.get(0)?),
                owner: InstanceId(row.get(1)?),
                claimed_by: row.get::<_, Option<i64>>(2)?.map(InstanceId),
                state,
                survive: row.get(5)?,
                same_program: row.get(6)?,
                uid: row.get(7)?,
            })
        })?
        .collect()
}

fn apply(
    tx: &Transaction<'_>,
    tally: &mut Tally,
    by: InstanceId,
    at: Millis,
    left: &Left,
    fate: Fate,
    claim: &mut OrphanClaim,
) -> rusqlite::Result<()> {
    let (took, list) = match fate {
        Fate::Leave => return Ok(()),
        Fate::GiveBack => return give_back(tx, left),
        Fate::Gone(reason) => {
            let end =
                End { reason, status: ExitStatus::Unobserved, at, error: None, because: None };
            (settle::end_from(tx, tally, left.id, left.state, &end)?, &mut claim.gone)
        }
        Fate::Adopt => (adopt(tx, by, left)?, &mut claim.adopted),
        Fate::Claim => (take_over(tx, by, left)?, &mut claim.claimed),
    };
    if took {
        list.push(process::one(tx, tx.schema(), left.id)?);
    }
    Ok(())
}

fn adopt(tx: &Transaction<'_>, by: InstanceId, left: &Left) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "UPDATE process SET owner = ?1, state = 'running', claimed_by = NULL
         WHERE id = ?2 AND owner = ?3 AND state = ?4",
    )?
    .execute((by.0, left.id.0, left.owner.0, left.state.as_str()))
    .map(|changed| changed == 1)
}

fn take_over(tx: &Transaction<'_>, by: InstanceId, left: &Left) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "UPDATE process SET owner = ?1, state = 'ending', claimed_by = ?1
         WHERE id = ?2 AND owner = ?3 AND state = ?4",
    )?
    .execute((by.0, left.id.0, left.owner.0, left.state.as_str()))
    .map(|changed| changed == 1)
}

fn give_back(tx: &Transaction<'_>, left: &Left) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE process SET state = 'running', claimed_by = NULL
         WHERE id = ?1 AND state = 'ending' AND claimed_by = ?2",
    )?
    .execute((left.id.0, left.claimed_by.map(|by| by.0)))
    .map(|_| ())
}
