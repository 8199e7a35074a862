//! Settles rows of processes that ended by themselves, or after a claim.

use std::collections::{HashMap, HashSet};

use super::{
    Store, claim,
    commit_counts::CommitCounts,
    leaks,
    members::ClaimedRows,
    passes,
    transaction::Transaction,
    transition::{Change, Live, Note, all_live, apply, apply_each, live},
};
use crate::{
    error::Result,
    identity::Identity,
    model::{
        End, Event, InstanceId, Life, PassRecord, ProcessId, RootEnd, Row, Settled, State, Verdict,
    },
};

impl Store {
    /// Records the ends of roots of `by` that ended by themselves, each together with the processes
    /// that it left.
    ///
    /// Returns the strays that were recorded, by root. A root that another instance is ending or
    /// has ended is left out: its strays are not recorded, but its status is, if its row has none.
    /// A root that had survived an attempt to end it, and is gone now, is ended as well.
    pub(crate) fn settle_roots<'a>(
        &self,
        by: InstanceId,
        ends: impl IntoIterator<Item = &'a RootEnd>,
    ) -> Result<HashMap<ProcessId, Vec<(ProcessId, Identity)>>> {
        self.write_counted("record the end of processes", |tx, counts| {
            let (mut ended, mut rows) = (HashMap::new(), ClaimedRows::default());
            for root in ends {
                if !end_own(tx, counts, by, root)? {
                    let End { status, core_dumped, .. } = root.end;
                    claim::note_status(tx, root.process, by, status, core_dumped)?;
                    continue;
                }
                settle(tx, counts, by, None, &root.kept)?;
                let strays = root.strays.iter();
                let strays = strays.map(|it| Ok((rows.of(tx, counts, it)?, it.spec.identity)));
                ended.insert(root.process, strays.collect::<rusqlite::Result<_>>()?);
            }
            Ok(ended)
        })
    }

    /// Does the same for roots that left no processes, as far as `/proc` shows. Skips roots that
    /// have recorded descendants, or that another instance is ending or has ended; returns the
    /// others.
    pub(crate) fn settle_alone<'a>(
        &self,
        by: InstanceId,
        ends: impl IntoIterator<Item = &'a RootEnd>,
    ) -> Result<HashSet<ProcessId>> {
        self.write_counted("record the end of processes", |tx, counts| {
            let mut ended = HashSet::new();
            for root in ends {
                let has_descendants: bool = tx
                    .prepare_cached(HAS_DESCENDANTS)?
                    .query_one([root.process.0], |row| row.get(0))?;
                if !has_descendants && end_own(tx, counts, by, root)? {
                    ended.insert(root.process);
                }
            }
            Ok(ended)
        })
    }

    /// Ends a row that is in the expected state, with the error because of which its program never
    /// ran; returns `false` if it was in another state.
    pub(crate) fn end(
        &self,
        id: ProcessId,
        expected: State,
        end: End,
        error: Option<&str>,
    ) -> Result<bool> {
        self.write_counted("record the end of processes", |tx, counts| {
            let row = live(tx, id)?.filter(|row| row.life.state() == expected);
            let note = Note { error, ..Note::default() };
            row.map_or(Ok(false), |row| apply(tx, counts, &row, [Event::Died(end)], note))
        })
    }

    /// Records a pass and the results of the rows that `by` had claimed, with their leaks.
    ///
    /// A row that `by` neither owns nor still has claimed is skipped, with its leak. Returns how
    /// many rows were recorded.
    pub(crate) fn record(
        &self,
        by: InstanceId,
        pass: Option<&PassRecord>,
        settled: &[Settled],
    ) -> Result<usize> {
        let took = self.write_counted("record a pass", |tx, counts| {
            let pass = pass.map(|pass| passes::insert(tx, by, pass)).transpose()?;
            settle(tx, counts, by, pass, settled)
        })?;
        if let Some(pass) = pass {
            self.counters().passed(pass);
        }
        Ok(took)
    }
}

pub(super) const HAS_DESCENDANTS: &str = "SELECT EXISTS (
       SELECT 1 FROM process INDEXED BY process_root WHERE root = ?1 AND state <> 'ended')";

/// Ends a row that is running or has survived, if `by` is its owner. A row that another instance
/// has claimed is left to that instance.
fn end_own(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    by: InstanceId,
    root: &RootEnd,
) -> rusqlite::Result<bool> {
    let own = |row: &Live| row.owner == by && row.life.claimed_by().is_none();
    let row = live(tx, root.process)?.filter(own);
    let died = || Event::Died(root.end.clone());
    row.map_or(Ok(false), |row| apply(tx, counts, &row, [died()], Note::default()))
}

/// Settles rows, after inserting those that do not exist yet; returns how many were settled.
fn settle(
    tx: &Transaction<'_>,
    counts: &mut CommitCounts,
    by: InstanceId,
    pass: Option<i64>,
    settled: &[Settled],
) -> rusqlite::Result<usize> {
    let (mut rows, mut ids) = (ClaimedRows::default(), Vec::with_capacity(settled.len()));
    for settled in settled {
        ids.push(match &settled.row {
            Row::New(new) => rows.of(tx, counts, new)?,
            Row::Existing(id) => *id,
        });
    }
    let rows = all_live(tx, &ids)?.into_iter().filter(|row| may_settle(row, by));
    let mut rows: HashMap<ProcessId, Live> = rows.map(|row| (row.id, row)).collect();
    let changes = ids.iter().zip(settled).filter_map(|(id, settled)| {
        let (event, error) = match &settled.verdict {
            Verdict::Ended(end) | Verdict::Kept(end) => (Event::Died(end.clone()), None),
            Verdict::Survived(why) => (Event::Survived, Some(why.as_str())),
            Verdict::Unknown(why) => (Event::GiveBack, Some(why.as_str())),
            Verdict::Interrupted => (Event::GiveBack, None),
        };
        Some(Change { row: rows.remove(id)?, event, note: Note { error, ..Note::default() } })
    });
    let mut took = apply_each(tx, counts, changes)?;
    let count = took.len();
    for (id, settled) in ids.into_iter().zip(settled) {
        let took = took.remove(&id);
        if let Verdict::Ended(end) = &settled.verdict
            && !took
        {
            // Another instance has taken the claim over or has ended the row. The status of our own
            // child is recorded nevertheless.
            claim::note_status(tx, id, by, end.status, end.core_dumped)?;
        }
        if took && let Some(leak) = &settled.leak {
            leaks::upsert(tx, counts, pass, id, leak)?;
        }
    }
    Ok(count)
}

/// Reports whether `by` is ending a row, or owns it while no instance is ending it: an owner ends
/// its processes even if its claim could not be written (invariant 10).
fn may_settle(row: &Live, by: InstanceId) -> bool {
    match row.life {
        Life::Ending { claimed_by } => claimed_by == by,
        _ => row.owner == by,
    }
}
