//! Settles rows: processes that ended by themselves, or after a claim.

use rusqlite::{OptionalExtension, ToSql, named_params};

use super::{Store, claim, leaks, passes, process, tally::Tally, transaction::Transaction};
use crate::{
    error::Result,
    model::{End, InstanceId, PassRecord, ProcessId, RootEnd, Settled, Verdict, state::State},
    redact::mask_text,
};

impl Store {
    /// Ends roots of `by` that ended by themselves, each together with the processes that it left.
    ///
    /// `None` for a root that another instance is ending, or that has been ended; its strays are not recorded then, but its
    /// status is, where its row has none. Otherwise the row numbers of its strays. A root that had survived an attempt to end
    /// it, and is gone now, is ended as well.
    pub(crate) fn settle_roots(
        &self,
        by: InstanceId,
        ends: &[RootEnd],
    ) -> Result<Vec<Option<Vec<ProcessId>>>> {
        self.write_counted("record the end of processes", |tx, tally| {
            ends.iter()
                .map(|root| {
                    if !end_own(tx, tally, by, root)? {
                        claim::note_status(tx, root.process, by, root.end.status)?;
                        return Ok(None);
                    }
                    for kept in &root.kept {
                        settle(tx, tally, by, None, kept)?;
                    }
                    let strays = root.strays.iter().map(|stray| process::insert(tx, stray));
                    strays.collect::<rusqlite::Result<_>>().map(Some)
                })
                .collect()
        })
    }

    /// Does the same for roots that left no processes, as far as `/proc` shows. Returns `false`, and does nothing, for one that
    /// has recorded descendants, or that another instance is ending or has ended.
    pub(crate) fn settle_alone(&self, by: InstanceId, ends: &[RootEnd]) -> Result<Vec<bool>> {
        self.write_counted("record the end of processes", |tx, tally| {
            ends.iter()
                .map(|root| {
                    let has_descendants: bool = tx
                        .prepare_cached(HAS_DESCENDANTS)?
                        .query_one([root.process.0], |row| row.get(0))?;
                    Ok(!has_descendants && end_own(tx, tally, by, root)?)
                })
                .collect()
        })
    }

    /// Ends rows, each from the expected state; `false` where it was in another one.
    pub(crate) fn end(&self, ends: &[(ProcessId, State, End)]) -> Result<Vec<bool>> {
        self.write_counted("record the end of processes", |tx, tally| {
            (ends.iter())
                .map(|(id, expected, end)| end_from(tx, tally, *id, *expected, end))
                .collect()
        })
    }

    /// Records a pass and the results of the rows that `by` had claimed, with the leaks that they were.
    ///
    /// Returns `false` for a row that `by` no longer has claimed, and that is not its own; nothing of it is recorded, and
    /// neither is its leak.
    pub(crate) fn record(
        &self,
        by: InstanceId,
        pass: Option<&PassRecord>,
        settled: &[Settled],
    ) -> Result<Vec<bool>> {
        let took = self.write_counted("record a pass", |tx, tally| {
            let pass = pass.map(|pass| passes::insert(tx, by, pass)).transpose()?;
            settled.iter().map(|settled| settle(tx, tally, by, pass, settled)).collect()
        })?;
        if let Some(pass) = pass {
            self.counters().passed(pass);
        }
        Ok(took)
    }
}

pub(super) const HAS_DESCENDANTS: &str = "SELECT EXISTS (
       SELECT 1 FROM process INDEXED BY process_root WHERE root = ?1 AND state <> 'ended')";

/// Ends a row from `running` or `survived`, and only where `by` is the owner.
fn end_own(
    tx: &Transaction<'_>,
    tally: &mut Tally,
    by: InstanceId,
    root: &RootEnd,
) -> rusqlite::Result<bool> {
    write_end(tx, tally, root.process, END_OWN, &by.0, &root.end)
}

/// Ends a row from one live state, whatever its owner; an expected `Ended` matches no row.
pub(super) fn end_from(
    tx: &Transaction<'_>,
    tally: &mut Tally,
    id: ProcessId,
    expected: State,
    end: &End,
) -> rusqlite::Result<bool> {
    let statement = if expected == State::Ending { END_CLAIMED } else { END_UNCLAIMED };
    write_end(tx, tally, id, statement, &expected.as_str(), end)
}

/// The end of a row with what is known of it. A status that its owner has recorded before stays where the instance that ends
/// the row could not observe it; then the process was not `gone`, but exited, or was killed as a person had requested. A column
/// that names an instance is written only where it has to change: each is a foreign key, for which SQLite keeps a journal of
/// the statement.
macro_rules! end_where {
    ($also:literal, $condition:literal) => {
        concat!(
            "UPDATE process
             SET state = 'ended', ended_at = max(:at, started_at),
               end_reason = CASE
                 WHEN :reason <> 'gone' OR coalesce(:code, :signal, exit_code, exit_signal) IS NULL THEN :reason
                 WHEN asked_by IS NULL THEN 'exited' ELSE 'killed' END,
               exit_code = CASE WHEN coalesce(:code, :signal) IS NULL THEN exit_code ELSE :code END,
               exit_signal = CASE WHEN coalesce(:code, :signal) IS NULL THEN exit_signal ELSE :signal END,
               last_error = :error, end_rule = :rule, end_evidence = :evidence",
            $also,
            " WHERE id = :id AND ",
            $condition
        )
    };
}

/// A row that another instance has claimed is left to it.
const END_OWN: &str = end_where!("", "state IN ('running', 'survived') AND owner = :condition");
const END_UNCLAIMED: &str =
    end_where!("", "state IN ('running', 'survived') AND state = :condition");
const END_CLAIMED: &str =
    end_where!(", claimed_by = NULL", "state = 'ending' AND state = :condition");

fn write_end(
    tx: &Transaction<'_>,
    tally: &mut Tally,
    id: ProcessId,
    statement: &str,
    condition: &dyn ToSql,
    end: &End,
) -> rusqlite::Result<bool> {
    let changed = tx.prepare_cached(statement)?.execute(named_params! {
        ":id": id.0,
        ":condition": condition,
        ":at": end.at.0,
        ":reason": end.reason.as_str(),
        ":code": end.status.code(),
        ":signal": end.status.signal(),
        ":error": end.error.as_deref().map(mask_text),
        ":rule": end.because.as_ref().map(|because| &because.rule),
        ":evidence": end.because.as_ref().map(|because| &because.evidence),
    })?;
    if changed == 1 {
        leaks::survives_no_more(tx, id)?;
        tally.ended(end.reason);
    }
    Ok(changed == 1)
}

/// Settles one row; a process that was left running on purpose gets its row here, where it has none yet.
fn settle(
    tx: &Transaction<'_>,
    tally: &mut Tally,
    by: InstanceId,
    pass: Option<i64>,
    settled: &Settled,
) -> rusqlite::Result<bool> {
    let id = match &settled.verdict {
        Verdict::Kept(Some(new), _) | Verdict::Found(new, _) => process::insert(tx, new)?,
        _ => settled.process,
    };
    let took = match answered_by(tx, id, by)? {
        None => false,
        Some(state) => match &settled.verdict {
            Verdict::Ended(end) | Verdict::Kept(_, end) | Verdict::Found(_, end) => {
                end_from(tx, tally, id, state, end)?
            }
            Verdict::Survived(why) => put_back(tx, id, by, State::Survived, Some(why))?,
            Verdict::Unknown(why) => put_back(tx, id, by, State::Running, Some(why))?,
            Verdict::Interrupted => put_back(tx, id, by, State::Running, None)?,
        },
    };
    if let Verdict::Ended(end) = &settled.verdict
        && !took
    {
        // Another instance has taken the claim over, or has ended the row: the status of our own child is recorded all the
        // same.
        claim::note_status(tx, id, by, end.status)?;
    }
    if took && let Some(leak) = &settled.leak {
        leaks::upsert(tx, tally, pass, id, leak)?;
    }
    Ok(took)
}

/// Returns the state of a row that `by` is ending, or that is its own and is not being ended: an owner ends its processes even
/// when its claim could not be written (invariant 10). `None` for any other.
fn answered_by(
    tx: &Transaction<'_>,
    id: ProcessId,
    by: InstanceId,
) -> rusqlite::Result<Option<State>> {
    let state: Option<String> = tx
        .prepare_cached(
            "SELECT state FROM process
             WHERE id = ?1 AND ((state = 'ending' AND claimed_by = ?2)
               OR (state IN ('running', 'survived') AND owner = ?2))",
        )?
        .query_one((id.0, by.0), |row| row.get(0))
        .optional()?;
    Ok(state.as_deref().and_then(State::parse))
}

/// Ends the claim of `by` while the row stays live. With `why` another attempt is due.
fn put_back(
    tx: &Transaction<'_>,
    id: ProcessId,
    by: InstanceId,
    state: State,
    why: Option<&str>,
) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "UPDATE process SET state = ?1, claimed_by = NULL, last_error = coalesce(?2, last_error)
         WHERE id = ?3 AND state = 'ending' AND claimed_by = ?4",
    )?
    .execute((state.as_str(), why.map(mask_text), id.0, by.0))
    .map(|changed| changed == 1)
}
