//! The life of a row: the only code that changes its state.
//!
//! An event is applied to the life that the row has now ([`Life::apply`]); what follows from it is written by an update that is
//! conditional on that life. Reading and writing are one immediate transaction.

use rusqlite::{OptionalExtension, named_params};

use super::{
    cell::{Cell, Cells},
    commit_counts::CommitCounts,
    leaks,
    migration::Schema,
    transaction::Transaction,
};
use crate::{
    model::{End, EndReason, Event, InstanceId, Life, ProcessId, State},
    redact::mask_text,
};

/// A row that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) id: ProcessId,
    pub(super) owner: InstanceId,
    pub(super) life: Life,
}

/// What a transition writes besides the life; `None` leaves a column as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Note<'a> {
    pub(super) owner: Option<InstanceId>,
    pub(super) requested_by: Option<&'a str>,
    pub(super) error: Option<&'a str>,
}

/// Returns a row; `None` where it has ended, or does not exist.
pub(super) fn live(tx: &Transaction<'_>, id: ProcessId) -> rusqlite::Result<Option<Live>> {
    let found = tx
        .prepare_cached("SELECT owner, state, claimed_by FROM process WHERE id = ?1")?
        .query_one([id.0], |row| {
            let mut cells = Cells::of(row);
            Ok((cells.take()?, life(&mut cells)?))
        })
        .optional()?;
    Ok(found.and_then(|(owner, life)| Some(Live { id, owner, life: life? })))
}

/// Reads `state` and `claimed_by`; `None` for a row that has ended.
pub(super) fn life(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Option<Life>> {
    Ok(match (cells.take()?, cells.take()?) {
        (State::Ended, _) => None,
        (State::Survived, _) => Some(Life::Survived),
        (State::Ending, Some(claimed_by)) => Some(Life::Ending { claimed_by }),
        (State::Running | State::Ending, _) => Some(Life::Running),
    })
}

/// Applies events to a row, one after the other. Returns `false`, and writes nothing, where one of them does not fit, or the
/// row is not as it was read any more.
pub(super) fn apply(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    row: &Live,
    events: impl IntoIterator<Item = Event>,
    note: Note<'_>,
) -> rusqlite::Result<bool> {
    let life = events.into_iter().try_fold(row.life.clone(), |life, event| life.apply(event));
    match life {
        Ok(Life::Ended(end)) => write_end(tx, counts, row, &end, note),
        Ok(life) => write_live(tx, row, &life, note),
        Err(illegal) => {
            tracing::debug!("row {} stays as it is: {illegal}", row.id.0);
            Ok(false)
        }
    }
}

fn write_live(
    tx: &Transaction<'_>,
    row: &Live,
    life: &Life,
    note: Note<'_>,
) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "UPDATE process
         SET state = :state, claimed_by = :claimed_by, owner = coalesce(:owner, owner),
           asked_by = coalesce(:requested_by, asked_by), last_error = coalesce(:error, last_error)
         WHERE id = :id AND state = :was AND claimed_by IS :was_claimed_by",
    )?
    .execute(named_params! {
        ":state": life.state().as_str(),
        ":claimed_by": life.claimed_by().write(),
        ":owner": note.owner.write(),
        ":requested_by": note.requested_by,
        ":error": note.error.map(mask_text),
        ":id": row.id.0,
        ":was": row.life.state().as_str(),
        ":was_claimed_by": row.life.claimed_by().write(),
    })
    .map(|changed| changed == 1)
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
               asked_by = coalesce(:requested_by, asked_by),
               last_error = CASE WHEN :reason IN ('released', 'forgotten') THEN last_error ELSE :error END,
               end_rule = :rule, end_evidence = :evidence",
            $also,
            " WHERE id = :id AND state = :was AND ",
            $condition
        )
    };
}

const END_UNCLAIMED: &str = end_where!("", "claimed_by IS :was_claimed_by");
const END_CLAIMED: &str = end_where!(", claimed_by = NULL", "claimed_by = :was_claimed_by");

fn write_end(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    row: &Live,
    end: &End,
    note: Note<'_>,
) -> rusqlite::Result<bool> {
    let claimed_by = row.life.claimed_by();
    let statement = if claimed_by.is_some() { END_CLAIMED } else { END_UNCLAIMED };
    let changed = tx.prepare_cached(statement)?.execute(named_params! {
        ":id": row.id.0,
        ":was": row.life.state().as_str(),
        ":was_claimed_by": claimed_by.write(),
        ":at": end.at.write(),
        ":reason": end.reason.as_str(),
        ":code": end.status.code(),
        ":signal": end.status.signal(),
        ":requested_by": note.requested_by,
        ":error": note.error.map(mask_text),
        ":rule": end.because.as_ref().map(|because| &because.rule),
        ":evidence": end.because.as_ref().map(|because| &because.evidence),
    })?;
    if changed == 1 {
        // One that was released or forgotten may still run.
        if !matches!(end.reason, EndReason::Released | EndReason::Forgotten) {
            leaks::survives_no_more(tx, row.id)?;
        }
        write_keys(tx, row.id, end)?;
        write_core_dump(tx, row.id, end.core_dumped)?;
        counts.ended(end.reason);
    }
    Ok(changed == 1)
}

/// Writes that a process of a row dumped its core, where it did and the ledger has a column for it.
pub(super) fn write_core_dump(
    tx: &Transaction<'_>,
    id: ProcessId,
    core_dumped: bool,
) -> rusqlite::Result<()> {
    if !core_dumped || tx.schema() < Schema::CORE_DUMP {
        return Ok(());
    }
    let signalled = "UPDATE process SET core_dumped = 1 WHERE id = ?1 AND exit_signal IS NOT NULL";
    tx.prepare_cached(signalled)?.execute([id.0]).map(|_| ())
}

/// Writes the keys of rule and evidence of a row that was ended, where the ledger has columns for them.
pub(super) fn write_keys(tx: &Transaction<'_>, id: ProcessId, end: &End) -> rusqlite::Result<()> {
    let Some(because) = end.because.as_ref().filter(|_| tx.schema() >= Schema::KEYS) else {
        return Ok(());
    };
    tx.prepare_cached("UPDATE process SET end_rule_key = ?1, end_evidence_key = ?2 WHERE id = ?3")?
        .execute((because.rule_key.as_str(), because.evidence_key.as_str(), id.0))
        .map(|_| ())
}
