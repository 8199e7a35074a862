//! Queries of processes.

use super::{
    Store,
    cell::{RowReader, hex},
    migration::Schema,
    process,
};
use crate::{
    error::Result,
    identity::{Identity, Pid},
    model::{InstanceId, Millis, ProcessId, ProcessRecord, TaskId},
};

/// A query of processes: the text after FROM, and the rest.
#[derive(Clone, Copy)]
pub(super) struct Select(&'static str, &'static str);

impl Select {
    pub(super) fn sql(self, schema: Schema) -> String {
        process::select(schema, self.0, self.1)
    }
}

// Named constants, so that a test can ask SQLite for their query plans.
pub(super) const LIVE: Select = Select(
    "process AS p INDEXED BY process_live_owner",
    "WHERE p.state <> 'ended' ORDER BY p.started_at, p.id",
);
pub(super) const LIVE_OF: Select = Select(
    "process AS p INDEXED BY process_live_owner",
    "WHERE p.owner = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id",
);
// Two ranges of the index, which are empty for an instance that is alone: it may have thousands of
// rows itself.
pub(super) const LIVE_OF_OTHERS: Select = Select(
    "process AS p",
    "WHERE p.id IN (
         SELECT id FROM process INDEXED BY process_live_owner WHERE state <> 'ended' AND owner < ?1
         UNION ALL
         SELECT id FROM process INDEXED BY process_live_owner WHERE state <> 'ended' AND owner > ?1
       )
       AND p.state <> 'ended' AND p.pid IN (SELECT value FROM json_each(?2)) ORDER BY p.id",
);
pub(super) const LIVE_OF_TASK: Select = Select(
    "process AS p INDEXED BY process_live_task",
    "WHERE p.task_id = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id",
);
pub(super) const KEPT_BELOW: &str =
    "SELECT f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset,
       p.pid, p.start_tick, p.pidfd_inode
     FROM process AS p INDEXED BY process_root
     CROSS JOIN instance AS f ON f.id = p.first_owner
     WHERE p.root = ?1 AND p.end_reason = 'released'";
pub(super) const HISTORY_OF: Select = Select(
    "process AS p INDEXED BY process_task",
    "WHERE p.task_id = ?1 AND p.ended_at >= ?2
                     ORDER BY p.ended_at DESC, p.id DESC LIMIT ?3",
);
pub(super) const HISTORY: Select = Select(
    "process AS p INDEXED BY process_ended",
    "WHERE p.ended_at >= ?1 ORDER BY p.ended_at DESC, p.id DESC LIMIT ?2",
);

impl Store {
    /// Returns every row that has not ended, oldest first.
    pub(crate) fn live(&self) -> Result<Vec<ProcessRecord>> {
        self.processes("list the processes", LIVE, [])
    }

    /// Does the same as [`Store::live`] for one instance.
    pub(crate) fn live_of(&self, owner: InstanceId) -> Result<Vec<ProcessRecord>> {
        self.processes("list the processes of an instance", LIVE_OF, [owner.0])
    }

    /// Does the same as [`Store::live`] for other instances' rows with one of these PIDs.
    pub(crate) fn live_of_others(
        &self,
        own: InstanceId,
        pids: &[Pid],
    ) -> Result<Vec<ProcessRecord>> {
        let pids: Vec<u32> = pids.iter().map(|pid| pid.get()).collect();
        let pids = serde_json::Value::from(pids).to_string();
        self.processes("list processes of other instances", LIVE_OF_OTHERS, (own.0, pids))
    }

    /// Does the same as [`Store::live`] for one task.
    pub(crate) fn live_of_task(&self, task: &TaskId) -> Result<Vec<ProcessRecord>> {
        self.processes("list the processes of a task", LIVE_OF_TASK, [task.as_str()])
    }

    /// Returns how many orphans other instances have taken over and are still ending.
    pub(crate) fn live_ending_by_others(&self, own: InstanceId) -> Result<u64> {
        self.try_read("count the processes that others are ending", |connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM process INDEXED BY process_live_owner
                     WHERE state <> 'ended' AND state = 'ending' AND owner = claimed_by
                       AND owner <> first_owner AND owner <> ?1",
                )?
                .query_row([own.0], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    /// Reports whether a live root of this ledger has this token.
    pub(crate) fn knows_token(&self, token: &uuid::Uuid) -> Result<bool> {
        self.try_read("look up a token", |connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM process INDEXED BY process_live_owner
                                    WHERE state <> 'ended' AND token = ?1)",
                )?
                .query_row([hex(*token)], |row| row.get(0))
        })
    }

    /// Returns one row, whatever its state.
    pub(crate) fn process(&self, id: ProcessId) -> Result<Option<ProcessRecord>> {
        self.try_read("look up a process", |connection| {
            process::find(connection, self.schema(), id)
        })
    }

    /// Returns ended rows, newest end first; optionally only those of one task, or since a given
    /// time.
    pub(crate) fn history(
        &self,
        task: Option<&TaskId>,
        since: Option<Millis>,
        limit: Option<u32>,
    ) -> Result<Vec<ProcessRecord>> {
        // SQLite treats a negative limit as none.
        let limit = limit.map_or(-1, i64::from);
        let since = since.map_or(i64::MIN, |since| since.0);
        match task {
            Some(task) => self.processes(
                "read the history of a task",
                HISTORY_OF,
                (task.as_str(), since, limit),
            ),
            None => self.processes("read the history", HISTORY, (since, limit)),
        }
    }

    fn processes(
        &self,
        doing: &str,
        select: Select,
        params: impl rusqlite::Params,
    ) -> Result<Vec<ProcessRecord>> {
        self.read(doing, |connection| {
            connection
                .prepare_cached(&select.sql(self.schema()))?
                .query_map(params, process::read)?
                .collect()
        })
    }
}

/// Reads the identity of a process, with its PID scope.
pub(super) fn identity(reader: &mut RowReader<'_, '_>) -> rusqlite::Result<Identity> {
    Ok(Identity {
        scope: reader.pid_scope()?,
        pid: reader.take()?,
        start_tick: reader.take()?,
        pidfd_inode: reader.take()?,
    })
}
