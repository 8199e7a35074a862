//! Takes over the rows of dead instances in one immediate transaction.
//!
//! Two reapers never get the same row: the transaction of the second begins after the commit of the
//! first, and by then the rows have another owner. If a reaper dies, the next one takes over its
//! claims in the same way.

use std::collections::HashMap;

use super::{
    Store,
    cell::RowReader,
    commit_counts::CommitCounts,
    instances, process,
    transaction::Transaction,
    transition::{self, Live, Note},
};
use crate::{
    error::Result,
    model::{DeadInstance, End, EndReason, Event, InstanceId, Life, Millis, OrphanClaim},
};

/// The part of a live row that decides what happens to it.
#[derive(Clone, Debug)]
struct Left {
    row: Live,
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
    /// Marked `survive`, and from the claimant's own program.
    Adopt,
    /// To be ended by the claimant.
    Claim,
    /// Its claimant is dead, but it is not taken over: treated as if it had not been claimed.
    GiveBack,
}

impl Store {
    /// Marks dead instances as stopped and takes over their rows; `uid_limit` skips rows of other
    /// uids.
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
        self.write_counted("claim orphans", |tx, counts| {
            for dead in dead.values() {
                instances::mark_stopped(tx, dead.id, dead.how, at)?;
            }
            let mut claim = OrphanClaim::default();
            for left in live_rows(tx, program)? {
                if uid_limit.is_none_or(|uid| uid == left.uid) {
                    let fate = fate(&left, &dead);
                    if dead.get(&left.row.owner).is_some_and(|owner| owner.replaced) {
                        claim.replaced.insert(left.row.id);
                    }
                    apply(tx, counts, by, at, &left, fate, &mut claim)?;
                }
            }
            Ok(claim)
        })
    }
}

fn fate(left: &Left, dead: &HashMap<InstanceId, DeadInstance>) -> Fate {
    let claimant = left.row.life.claimed_by();
    let claimant_dead = claimant.is_some_and(|by| dead.contains_key(&by));
    if claimant.is_some() && !claimant_dead {
        return Fate::Leave;
    }
    let Some(owner) = dead.get(&left.row.owner) else {
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
    "SELECT p.id, p.owner, p.state, p.claimed_by, p.survive, o.program = ?1, p.uid
         FROM process AS p INDEXED BY process_live_owner
         CROSS JOIN instance AS o ON o.id = p.owner
         WHERE p.state <> 'ended'";

/// Returns every live row, by an index that contains no others, however long the history is.
fn live_rows(tx: &Transaction<'_>, program: &str) -> rusqlite::Result<Vec<Left>> {
    tx.prepare_cached(LIVE_ROWS)?
        .query_map([program], |row| {
            let mut reader = RowReader::of(row);
            let (id, owner) = (reader.take()?, reader.take()?);
            // The query returns no rows that have ended.
            let life = transition::life(&mut reader)?.unwrap_or(Life::Running);
            Ok(Left {
                row: Live { id, owner, life },
                survive: reader.take()?,
                same_program: reader.take()?,
                uid: reader.take()?,
            })
        })?
        .collect()
}

fn apply(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    by: InstanceId,
    at: Millis,
    Left { row, .. }: &Left,
    fate: Fate,
    claim: &mut OrphanClaim,
) -> rusqlite::Result<()> {
    let mine = Note { owner: Some(by), ..Note::default() };
    let mut make =
        |events: &[Event], note| transition::apply(tx, counts, row, events.iter().cloned(), note);
    let (took, list) = match fate {
        Fate::Leave => return Ok(()),
        Fate::GiveBack => return make(&[Event::GiveBack], Note::default()).map(|_| ()),
        Fate::Gone(reason) => {
            let died = Event::Died(End::unobserved(reason, at));
            (make(&[died], Note::default())?, &mut claim.gone)
        }
        Fate::Adopt => {
            let events: &[Event] = match row.life {
                Life::Ending { .. } => &[Event::GiveBack, Event::Adopt],
                Life::Survived => &[Event::Claim(by), Event::GiveBack, Event::Adopt],
                Life::Running | Life::Ended(_) => &[Event::Adopt],
            };
            (make(events, mine)?, &mut claim.adopted)
        }
        Fate::Claim => (make(&[Event::Claim(by)], mine)?, &mut claim.claimed),
    };
    if took {
        list.push(process::one(tx, tx.schema(), row.id)?);
    }
    Ok(())
}
