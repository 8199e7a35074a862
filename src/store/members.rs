//! Rows of the members of trees.
//!
//! Two instances may find a process at the same time: the owner of its tree, and one that ends the
//! tree. It gets one row nevertheless, since each of them looks for that row in the transaction
//! that would insert it.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::OptionalExtension;

use super::{
    Store,
    cell::RowReader,
    commit_counts::CommitCounts,
    descendants, process,
    transaction::Transaction,
    transition::{Note, apply, live},
};
use crate::{
    error::Result,
    identity::{Identity, Pid, Sameness},
    model::{EndReason, Event, InstanceId, NewProcess, ProcessId},
};

/// A member that its owner has found in a live tree.
#[derive(Debug)]
pub(crate) struct FoundMember {
    pub(crate) new: NewProcess,
    /// Whether it may run on after its root has ended by itself.
    pub(crate) may_stay: bool,
}

impl Store {
    /// Records members that their owner has found in live trees, for as long as they run.
    ///
    /// The tree may have ended since they were found, or another instance may be ending it. Then
    /// members that are recorded already are left out, and those for which no instance is
    /// responsible any more: the root was released, or it ended by itself and they may stay.
    pub(crate) fn insert_members(&self, found: &[FoundMember]) -> Result<()> {
        self.write("record a process", |tx| {
            let mut recorded: HashMap<ProcessId, Vec<(Pid, u64)>> = HashMap::new();
            for FoundMember { new, may_stay } in found {
                if let Some(root) = new.spec.root
                    && !is_free(tx, root, new.spec.recorded_by)?
                {
                    let recorded = match recorded.entry(root) {
                        Entry::Occupied(rows) => rows.into_mut(),
                        Entry::Vacant(rows) => rows.insert(recorded_below(tx, root)?),
                    };
                    let Identity { pid, start_tick, .. } = new.spec.identity;
                    if recorded.contains(&(pid, start_tick)) || are_released(tx, root, *may_stay)? {
                        continue;
                    }
                }
                process::insert(tx, new)?;
            }
            Ok(())
        })
    }

    /// Records members that an end has found, claimed; returns their rows. They are ended whether
    /// or not they can be recorded.
    pub(crate) fn insert_found<K>(
        &self,
        found: Vec<(K, NewProcess)>,
    ) -> Result<Vec<(K, ProcessId)>> {
        self.write_counted("record a process", |tx, counts| {
            let mut rows = ClaimedRows::default();
            found.into_iter().map(|(key, new)| Ok((key, rows.of(tx, counts, &new)?))).collect()
        })
    }
}

/// The live rows of members that are ended by the instance that looks for them.
#[derive(Default)]
pub(super) struct ClaimedRows {
    /// By root.
    recorded: HashMap<ProcessId, Vec<(ProcessId, Identity)>>,
}

impl ClaimedRows {
    /// Returns the row of a member. If it has none, inserts it; if it has one that no instance has
    /// claimed, claims that. A row that another instance has claimed is settled by that instance.
    pub(super) fn of(
        &mut self,
        tx: &Transaction<'_>,
        counts: &mut CommitCounts,
        new: &NewProcess,
    ) -> rusqlite::Result<ProcessId> {
        let Some(root) = new.spec.root else { return process::insert(tx, new) };
        let recorded = match self.recorded.entry(root) {
            Entry::Occupied(rows) => rows.into_mut(),
            Entry::Vacant(rows) => rows.insert(descendants::live_below(tx, root)?),
        };
        let same = |recorded: &Identity| recorded.sameness(&new.spec.identity) == Sameness::Same;
        let Some((id, _)) = recorded.iter().find(|(_, recorded)| same(recorded)) else {
            return process::insert(tx, new);
        };
        if let Some(row) = live(tx, *id)?.filter(|row| row.life.claimed_by().is_none()) {
            apply(tx, counts, &row, [Event::Claim(new.spec.recorded_by)], Note::default())?;
        }
        Ok(*id)
    }
}

/// Returns whether a root is live, and no instance except `owner` is ending it.
fn is_free(tx: &Transaction<'_>, root: ProcessId, owner: InstanceId) -> rusqlite::Result<bool> {
    let row = live(tx, root)?;
    Ok(row.is_some_and(|row| row.life.claimed_by().is_none_or(|by| by == owner)))
}

/// Returns whether no instance is responsible for the members of an ended tree any more.
fn are_released(tx: &Transaction<'_>, root: ProcessId, may_stay: bool) -> rusqlite::Result<bool> {
    let reason: Option<String> = tx
        .prepare_cached("SELECT end_reason FROM process WHERE id = ?1")?
        .query_one([root.0], |row| row.get(0))
        .optional()?
        .flatten();
    let is = |one: EndReason| reason.as_deref() == Some(one.as_str());
    Ok(is(EndReason::Released)
        || is(EndReason::Forgotten)
        || may_stay && reason.is_some() && !is(EndReason::Killed))
}

pub(super) const RECORDED_BELOW: &str =
    "SELECT pid, start_tick FROM process INDEXED BY process_root WHERE root = ?1";

/// Returns the PIDs and start ticks of all recorded descendants, ended ones included.
fn recorded_below(tx: &Transaction<'_>, root: ProcessId) -> rusqlite::Result<Vec<(Pid, u64)>> {
    let mut statement = tx.prepare_cached(RECORDED_BELOW)?;
    let rows = statement.query_map([root.0], |row| {
        let mut reader = RowReader::of(row);
        Ok((reader.take()?, reader.take()?))
    })?;
    rows.collect()
}
