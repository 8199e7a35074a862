//! The life of a row: the only code that changes its state.
//!
//! An event is applied to the current life of the row ([`Life::apply`]); the result is written by
//! an update that is conditional on that life. Reading and writing are one immediate transaction.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, ToSql};

use super::{
    cell::{Cell, RowReader, json},
    commit_counts::CommitCounts,
    leaks,
    migration::Schema,
    transaction::Transaction,
};
use crate::{
    model::{
        End, EndReason, Event, Evidence, ExitStatus, InstanceId, Justification, Life, ProcessId,
        Rule, State,
    },
    redact::mask_text,
};

/// A row that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) id: ProcessId,
    pub(super) owner: InstanceId,
    pub(super) life: Life,
}

/// The columns that a transition writes besides the life; `None` leaves a column as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note<'a> {
    pub(super) owner: Option<InstanceId>,
    pub(super) requested_by: Option<&'a str>,
    pub(super) error: Option<&'a str>,
}

/// Returns a row; `None` if it has ended or does not exist.
pub(super) fn live(tx: &Transaction<'_>, id: ProcessId) -> rusqlite::Result<Option<Live>> {
    let found = tx
        .prepare_cached("SELECT owner, state, claimed_by FROM process WHERE id = ?1")?
        .query_one([id.0], |row| {
            let mut reader = RowReader::of(row);
            Ok((reader.take()?, life(&mut reader)?))
        })
        .optional()?;
    Ok(found.and_then(|(owner, life)| Some(Live { id, owner, life: life? })))
}

/// Reads `state` and `claimed_by`; `None` for a row that has ended.
pub(super) fn life(reader: &mut RowReader<'_, '_>) -> rusqlite::Result<Option<Life>> {
    Ok(match (reader.take()?, reader.take()?) {
        (State::Ended, _) => None,
        (State::Survived, _) => Some(Life::Survived),
        (State::Ending, Some(claimed_by)) => Some(Life::Ending { claimed_by }),
        (State::Running | State::Ending, _) => Some(Life::Running),
    })
}

/// Returns the given rows, in the same order, without those that have ended or do not exist.
pub(super) fn all_live(tx: &Transaction<'_>, ids: &[ProcessId]) -> rusqlite::Result<Vec<Live>> {
    if ids.len() < MANY {
        return ids.iter().filter_map(|id| live(tx, *id).transpose()).collect();
    }
    let mut statement = tx.prepare_cached(LIVE_AMONG)?;
    let rows = statement.query_map([json(ids)], |row| {
        let mut reader = RowReader::of(row);
        let (id, owner) = (reader.take()?, reader.take()?);
        Ok(life(&mut reader)?.map(|life| Live { id, owner, life }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// The number of rows from which on one statement for all is cheaper than one for each.
const MANY: usize = 4;

/// With how many of the last groups of equal changes a change is compared.
const LAST_GROUPS: usize = 8;

pub(super) const LIVE_AMONG: &str = "SELECT p.id, p.owner, p.state, p.claimed_by
     FROM json_each(?1) AS wanted CROSS JOIN process AS p ON p.id = wanted.value";

/// Applies events to a row, one after the other. Returns `false`, and writes nothing, if one of
/// them does not fit or the row has changed since it was read.
pub(super) fn apply(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    row: &Live,
    events: impl IntoIterator<Item = Event>,
    note: Note<'_>,
) -> rusqlite::Result<bool> {
    let Some(next) = next_life(row, events) else { return Ok(false) };
    write(tx, counts, &[row.id], (&row.life, &next), note).map(|took| !took.is_empty())
}

/// A change of a row.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) row: Live,
    pub(super) event: Event,
    pub(super) note: Note<'a>,
}

/// Applies an event to each row, like [`apply`], with one statement for all rows that change in the
/// same way; returns the rows that were changed.
pub(super) fn apply_each<'a>(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    changes: impl IntoIterator<Item = Change<'a>>,
) -> rusqlite::Result<HashSet<ProcessId>> {
    let mut groups: Vec<(Life, Life, Note<'_>, Vec<ProcessId>)> = Vec::new();
    for Change { row, event, note } in changes {
        let Some(next) = next_life(&row, [event]) else { continue };
        // Consecutive changes are usually equal. Thousands of different changes must not all be
        // compared with one another.
        let same = groups
            .iter_mut()
            .rev()
            .take(LAST_GROUPS)
            .find(|group| (&group.0, &group.1, &group.2) == (&row.life, &next, &note));
        match same {
            Some((.., rows)) => rows.push(row.id),
            None => groups.push((row.life, next, note, vec![row.id])),
        }
    }
    let mut written = HashSet::new();
    for (was, next, note, rows) in groups {
        written.extend(write(tx, counts, &rows, (&was, &next), note)?);
    }
    Ok(written)
}

/// Returns the life of a row after these events; `None` if one of them does not fit.
fn next_life(row: &Live, events: impl IntoIterator<Item = Event>) -> Option<Life> {
    let next = events.into_iter().try_fold(row.life.clone(), |life, event| life.apply(event));
    next.inspect_err(|illegal| {
        tracing::debug!("row {} stays as it is: {illegal}", row.id.0);
    })
    .ok()
}

/// Changes rows that have the same life; returns those that still had it.
fn write(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    rows: &[ProcessId],
    (was, next): (&Life, &Life),
    note: Note<'_>,
) -> rusqlite::Result<Vec<ProcessId>> {
    match next {
        Life::Ended(end) if end.reason == EndReason::Gone => {
            write_gone(tx, counts, rows, (was, end), note)
        }
        Life::Ended(end) => write_end(tx, counts, rows, (was, end), note),
        next => write_live(tx, rows, (was, next), note),
    }
}

fn write_live(
    tx: &Transaction<'_>,
    rows: &[ProcessId],
    (was, next): (&Life, &Life),
    note: Note<'_>,
) -> rusqlite::Result<Vec<ProcessId>> {
    // A column that refers to an instance is written only if it changes: it is a foreign key, for
    // which SQLite keeps a statement journal.
    let owner = if note.owner.is_some() { ", owner = :owner" } else { "" };
    let assignments = format!(
        "state = :state, claimed_by = :claimed_by, asked_by = coalesce(:requested_by, asked_by),
           last_error = coalesce(:error, last_error){owner}"
    );
    let (state, claimed_by) = (next.state(), next.claimed_by());
    let (state, claimed_by) = (state.as_str(), claimed_by.write());
    let (owner, error) = (note.owner.write(), note.error.map(mask_text));
    let mut params: Vec<(&str, &dyn ToSql)> = vec![
        (":state", &state),
        (":claimed_by", &claimed_by),
        (":requested_by", &note.requested_by),
        (":error", &error),
    ];
    if note.owner.is_some() {
        params.push((":owner", &owner));
    }
    update(tx, &assignments, rows, was, &params)
}

/// Updates the rows that still have this life; returns them.
fn update(
    tx: &Transaction<'_>,
    assignments: &str,
    rows: &[ProcessId],
    was: &Life,
    params: &[(&str, &dyn ToSql)],
) -> rusqlite::Result<Vec<ProcessId>> {
    // Find the rows by number, never by the index of claims.
    let which = "state = :was AND +claimed_by IS :was_claimed_by AND id";
    let (state, claimed_by) = (was.state(), was.claimed_by());
    let (state, claimed_by) = (state.as_str(), claimed_by.write());
    let (single, ids) = match rows {
        [row] => (Some(row), String::new()),
        rows => (None, json(rows)),
    };
    let mut params = params.to_vec();
    params.extend([(":was", &state as &dyn ToSql), (":was_claimed_by", &claimed_by)]);
    if let Some(row) = single {
        params.push((":id", &row.0));
        let mut statement =
            tx.prepare_cached(&format!("UPDATE process SET {assignments} WHERE {which} = :id"))?;
        let changed = statement.execute(params.as_slice())?;
        return Ok(if changed == 1 { vec![*row] } else { Vec::new() });
    }
    params.push((":ids", &ids));
    tx.prepare_cached(&format!(
        "UPDATE process SET {assignments} WHERE {which} IN (SELECT value FROM json_each(:ids)) RETURNING id"
    ))?
    .query_map(params.as_slice(), |row| row.get(0).map(ProcessId))?
    .collect()
}

/// The assignments that end a row. If the instance that ends the row could not observe the status,
/// a status that the owner recorded before is kept; then the process was not `gone`, but exited.
const END: &str = "state = 'ended', ended_at = max(:at, started_at),
   end_reason = CASE
     WHEN :reason <> 'gone' OR coalesce(:code, :signal, exit_code, exit_signal) IS NULL THEN :reason
     ELSE 'exited' END,
   exit_code = CASE WHEN coalesce(:code, :signal) IS NULL THEN exit_code ELSE :code END,
   exit_signal = CASE WHEN coalesce(:code, :signal) IS NULL THEN exit_signal ELSE :signal END,
   asked_by = coalesce(:requested_by, asked_by),
   last_error = CASE WHEN :reason IN ('released', 'forgotten') THEN last_error ELSE :error END,
   end_rule = :rule, end_evidence = :evidence";
/// The assignment for a row that an instance had claimed; as above, it is written only there.
const END_CLAIM: &str = ", claimed_by = NULL";
/// The assignments for a row that was ended by a rule, if the ledger has columns for the keys of
/// rule and evidence.
const END_KEYS: &str = ", end_rule_key = :rule_key, end_evidence_key = :evidence_key";

/// Writes the end of rows whose processes were found gone. If a row has a status, and a person had
/// requested the end before, the process was killed by an instance that did not record it.
fn write_gone(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    rows: &[ProcessId],
    (was, end): (&Life, &End),
    note: Note<'_>,
) -> rusqlite::Result<Vec<ProcessId>> {
    let (mut written, mut others) = (Vec::new(), Vec::new());
    for &row in rows {
        let Some(because) = request(tx, row, end.status)? else {
            others.push(row);
            continue;
        };
        let end = End { reason: EndReason::Killed, because: Some(because), ..end.clone() };
        written.extend(write_end(tx, counts, &[row], (was, &end), note)?);
    }
    if !others.is_empty() {
        written.extend(write_end(tx, counts, &others, (was, end), note)?);
    }
    Ok(written)
}

/// Returns the person's request to end a process, if there was one and the status of the process is
/// known.
fn request(
    tx: &Transaction<'_>,
    row: ProcessId,
    status: ExitStatus,
) -> rusqlite::Result<Option<Justification>> {
    let of_row = |row: &rusqlite::Row<'_>| {
        let evidence = if row.get(1)? { Evidence::Root } else { Evidence::Recorded };
        Ok(Justification::new(&Rule::PersonAsked(row.get(0)?), evidence))
    };
    let is_known = status != ExitStatus::Unobserved;
    tx.prepare_cached(
        "SELECT asked_by, root IS NULL FROM process
         WHERE id = ?1 AND asked_by IS NOT NULL AND (?2 OR coalesce(exit_code, exit_signal) IS NOT NULL)",
    )?
    .query_one((row.0, is_known), of_row)
    .optional()
}

fn write_end(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    rows: &[ProcessId],
    (was, end): (&Life, &End),
    note: Note<'_>,
) -> rusqlite::Result<Vec<ProcessId>> {
    let because = end.because.as_ref();
    let keys = because.filter(|_| tx.schema() >= Schema::KEYS);
    let claim = if was.claimed_by().is_some() { END_CLAIM } else { "" };
    let assignments = [END, claim, if keys.is_some() { END_KEYS } else { "" }].concat();
    let (at, reason, error) = (end.at.write(), end.reason.as_str(), note.error.map(mask_text));
    let (code, signal) = (end.status.code(), end.status.signal());
    let (rule, evidence) = (because.map(|it| &it.rule), because.map(|it| &it.evidence));
    let mut params: Vec<(&str, &dyn ToSql)> = vec![
        (":at", &at),
        (":reason", &reason),
        (":code", &code),
        (":signal", &signal),
        (":requested_by", &note.requested_by),
        (":error", &error),
        (":rule", &rule),
        (":evidence", &evidence),
    ];
    let keys = keys.map(|it| (it.rule_key.as_str(), it.evidence_key.as_str()));
    if let Some((rule, evidence)) = &keys {
        params.extend([(":rule_key", rule as &dyn ToSql), (":evidence_key", evidence)]);
    }
    let changed = update(tx, &assignments, rows, was, &params)?;
    // A process that was released or forgotten may still be running.
    if !changed.is_empty() && !matches!(end.reason, EndReason::Released | EndReason::Forgotten) {
        leaks::survive_no_more(tx, &changed)?;
    }
    for id in &changed {
        write_core_dump(tx, *id, end.core_dumped)?;
        counts.ended(end.reason);
    }
    Ok(changed)
}

/// Records that the process of a row dumped core, if it did and the ledger has a column for it.
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
