//! New rows: a program runs only after its row, with its whole identity, is committed.

use rusqlite::{OptionalExtension, named_params};

use super::{Store, cell::hex, process, transaction::Transaction};
use crate::{
    error::{Error, Kind, Result},
    identity::PidScope,
    model::{NewProcess, ProcessId, State},
};

/// A process of a batch, with its row, or the reason why it was refused.
#[derive(Debug)]
pub(crate) struct Insertion<K> {
    /// Identifies the process to the caller.
    pub(crate) key: K,
    pub(crate) new: NewProcess,
    pub(crate) row: Result<ProcessId>,
}

impl Store {
    /// Records a batch, taken once the transaction has begun, in that transaction. An outer error
    /// means that none of it was committed.
    ///
    /// If the task of an item has a root that is alive in `here`, that item alone is refused. A
    /// root that is alive elsewhere cannot be judged from here, and blocks nothing.
    pub(crate) fn insert_queued<K>(
        &self,
        here: &PidScope,
        batch: impl FnOnce() -> Vec<(K, NewProcess)>,
    ) -> Result<Vec<Insertion<K>>> {
        self.write_patiently("record a process", |tx| insert_batch(tx, here, batch()))
    }

    /// Records one process.
    pub(crate) fn insert_one(&self, here: &PidScope, new: &NewProcess) -> Result<ProcessId> {
        self.write_patiently("record a process", |tx| insert(tx, here, new))?
    }
}

fn insert_batch<K>(
    tx: &Transaction<'_>,
    here: &PidScope,
    batch: Vec<(K, NewProcess)>,
) -> rusqlite::Result<Vec<Insertion<K>>> {
    let insert_batch = |(key, new)| Ok(Insertion { row: insert(tx, here, &new)?, key, new });
    batch.into_iter().map(insert_batch).collect()
}

fn insert(
    tx: &Transaction<'_>,
    here: &PidScope,
    new: &NewProcess,
) -> rusqlite::Result<Result<ProcessId>> {
    match refusal(tx, here, new)? {
        Some(refused) => Ok(Err(refused)),
        None => process::insert(tx, new).map(Ok),
    }
}

fn refusal(
    tx: &Transaction<'_>,
    here: &PidScope,
    new: &NewProcess,
) -> rusqlite::Result<Option<Error>> {
    let (Some(task), None) = (&new.spec.task_id, new.spec.root) else { return Ok(None) };
    let found = alive(tx, here, task.as_str(), new.allow_survivor)?;
    Ok(found.map(|(pid, state)| {
        let what = if state == State::Survived.as_str() {
            "is still there as a survivor"
        } else {
            "already runs"
        };
        Error::new(
            Kind::AlreadyRunning,
            format!("the task `{task}` {what} (pid {pid}): end it first"),
        )
    }))
}

pub(super) const ALIVE: &str = "SELECT p.pid, p.state
         FROM process AS p INDEXED BY process_live_task
         CROSS JOIN instance AS f ON f.id = p.first_owner
         WHERE p.task_id = :task AND p.state <> 'ended' AND p.root IS NULL
           AND NOT (:allow_survivor AND p.state = 'survived')
           AND f.boot_id = :boot_id AND f.pid_namespace = :pid_namespace
           AND f.boottime_offset = :boottime_offset
         LIMIT 1";

/// Returns the pid and state of a root that prevents another root of its task.
fn alive(
    tx: &Transaction<'_>,
    here: &PidScope,
    task: &str,
    allow_survivor: bool,
) -> rusqlite::Result<Option<(i64, String)>> {
    tx.prepare_cached(ALIVE)?
        .query_one(
            named_params! {
                ":task": task,
                ":allow_survivor": allow_survivor,
                ":boot_id": hex(here.boot_id),
                ":pid_namespace": here.pid_namespace.cast_signed(),
                ":boottime_offset": here.boottime_offset,
            },
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
}
