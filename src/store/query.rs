//! Queries of processes.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    Store,
    migration::Schema,
    row_reader::{Cells, uuid},
};
use crate::{
    error::Result,
    identity::{Identity, Place},
    model::{
        Cgroup, Containment, EndReason, ExportEntry, InstanceId, Limits, Millis, Origin, ProcessId,
        ProcessRecord, TaskId, state::State,
    },
};

/// The columns that [`process`] reads, of the rows `p` that come first, then the rest of the statement.
///
/// `CROSS JOIN` keeps that order: SQLite might otherwise begin with the few instances. The indexes are named, so that a
/// statement that could not use one fails in the tests instead of reading all history at every spawn.
macro_rules! select_processes {
    ($from:literal, $rest:literal) => {
        Select {
            current: select_processes!(
                "p.keeper_pid, p.keeper_start_tick, p.keeper_pidfd_inode, ",
                $from,
                $rest
            ),
            without_keeper: select_processes!("NULL, NULL, NULL, ", $from, $rest),
        }
    };
    ($keeper:literal, $from:literal, $rest:literal) => {
        concat!(
            "SELECT p.id, p.task_id, p.owner, o.program, p.root, p.origin, p.token, ",
            "f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset, ",
            "p.pid, p.start_tick, p.pidfd_inode, p.session, p.cgroup, p.cgroup_inode, p.containment, ",
            $keeper,
            "p.command, p.cwd, ",
            "p.uid, p.state, p.claimed_by, p.asked_by, p.started_at, p.ended_at, ",
            "p.exit_code, p.exit_signal, p.end_reason, p.end_rule, p.end_evidence, ",
            "p.survive, p.grace_ms, p.max_runtime_ms, p.max_rss_bytes, ",
            "p.peak_rss_bytes, p.cpu_ms, p.last_error ",
            $from,
            " CROSS JOIN instance AS o ON o.id = p.owner",
            " CROSS JOIN instance AS f ON f.id = p.first_owner ",
            $rest
        )
    };
}

/// A statement for each schema that this program reads as it is.
pub(super) struct Select {
    pub(super) current: &'static str,
    /// Before [`Schema::KEEPER`].
    without_keeper: &'static str,
}

impl Select {
    fn of(&self, schema: Schema) -> &'static str {
        if schema < Schema::KEEPER { self.without_keeper } else { self.current }
    }
}

// Each is beside the function that maps its rows; named constants, so that a test can ask SQLite for their query plans.
pub(super) const LIVE: Select = select_processes!(
    "FROM process AS p INDEXED BY process_live_owner",
    "WHERE p.state <> 'ended' ORDER BY p.started_at, p.id"
);
pub(super) const LIVE_OF: Select = select_processes!(
    "FROM process AS p INDEXED BY process_live_owner",
    "WHERE p.owner = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id"
);
pub(super) const LIVE_OF_TASK: Select = select_processes!(
    "FROM process AS p INDEXED BY process_live_task",
    "WHERE p.task_id = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id"
);
pub(super) const KEPT_BELOW: &str =
    "SELECT f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset,
       p.pid, p.start_tick, p.pidfd_inode
     FROM process AS p INDEXED BY process_root
     CROSS JOIN instance AS f ON f.id = p.first_owner
     WHERE p.root = ?1 AND p.end_reason = 'released'";
pub(super) const EXPORTED: &str =
    "SELECT task_id, pid, started_at, id FROM process INDEXED BY process_live_owner
     WHERE state <> 'ended' AND root IS NULL AND task_id IS NOT NULL";
pub(super) const HISTORY_OF: Select = select_processes!(
    "FROM process AS p INDEXED BY process_task",
    "WHERE p.task_id = ?1 AND p.ended_at >= ?2
                     ORDER BY p.ended_at DESC, p.id DESC LIMIT ?3"
);
pub(super) const HISTORY: Select = select_processes!(
    "FROM process AS p INDEXED BY process_ended",
    "WHERE p.ended_at >= ?1 ORDER BY p.ended_at DESC, p.id DESC LIMIT ?2"
);

impl Store {
    /// Returns every row that has not ended, oldest first.
    pub(crate) fn live(&self) -> Result<Vec<ProcessRecord>> {
        self.read("list the processes", |connection| {
            connection.prepare_cached(LIVE.of(self.schema()))?.query_map([], process)?.collect()
        })
    }

    /// Does the same as [`Store::live`] for one instance.
    pub(crate) fn live_of(&self, owner: InstanceId) -> Result<Vec<ProcessRecord>> {
        self.read("list the processes of an instance", |connection| {
            connection
                .prepare_cached(LIVE_OF.of(self.schema()))?
                .query_map([owner.0], process)?
                .collect()
        })
    }

    /// Does the same as [`Store::live`] for one task.
    pub(crate) fn live_of_task(&self, task: &TaskId) -> Result<Vec<ProcessRecord>> {
        self.read("list the processes of a task", |connection| {
            connection
                .prepare_cached(LIVE_OF_TASK.of(self.schema()))?
                .query_map([task.as_str()], process)?
                .collect()
        })
    }

    /// Returns the entries of the export: live roots that have a task, the longest-running first.
    pub(crate) fn export_entries(&self) -> Result<Vec<ExportEntry>> {
        let mut entries = self.read("list the exported processes", |connection| {
            connection
                .prepare_cached(EXPORTED)?
                .query_map([], |row| {
                    let started = Millis(row.get(2)?);
                    let entry = ExportEntry {
                        task_id: row.get(0)?,
                        process_id: row.get(1)?,
                        start_time: started.to_rfc3339(),
                    };
                    Ok(((started, row.get::<_, i64>(3)?), entry))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        // They are almost in order; SQLite would not take advantage of that.
        entries.sort_by_key(|(age, _)| *age);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Returns how many orphans another instance has taken over and is still ending.
    pub(crate) fn live_ending_by_others(&self, own: InstanceId) -> Result<u64> {
        self.glance("count the processes that others are ending", |connection| {
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
        self.glance("look up a token", |connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM process INDEXED BY process_live_owner
                                    WHERE state <> 'ended' AND token = ?1)",
                )?
                .query_row([super::row_reader::hex(*token)], |row| row.get(0))
        })
    }

    /// Returns one row, whatever its state.
    pub(crate) fn process(&self, id: ProcessId) -> Result<Option<ProcessRecord>> {
        self.read("look up a process", |connection| one(connection, self.schema(), id).optional())
    }

    /// Returns rows that have ended, newest end first: of a task, since a time, or all.
    pub(crate) fn history(
        &self,
        task: Option<&TaskId>,
        since: Option<Millis>,
        limit: u32,
    ) -> Result<Vec<ProcessRecord>> {
        let since = since.map_or(i64::MIN, |since| since.0);
        match task {
            Some(task) => self.history_of(task, since, limit),
            None => self.history_of_all(since, limit),
        }
    }

    fn history_of(&self, task: &TaskId, since: i64, limit: u32) -> Result<Vec<ProcessRecord>> {
        self.read("read the history of a task", |connection| {
            connection
                .prepare_cached(HISTORY_OF.of(self.schema()))?
                .query_map((task.as_str(), since, limit), process)?
                .collect()
        })
    }

    fn history_of_all(&self, since: i64, limit: u32) -> Result<Vec<ProcessRecord>> {
        self.read("read the history", |connection| {
            connection
                .prepare_cached(HISTORY.of(self.schema()))?
                .query_map((since, limit), process)?
                .collect()
        })
    }
}

/// Returns one row, within the transaction of the caller.
pub(super) fn one(
    connection: &Connection,
    schema: Schema,
    id: ProcessId,
) -> rusqlite::Result<ProcessRecord> {
    const ONE: Select = select_processes!("FROM process AS p", "WHERE p.id = ?1");
    connection.prepare_cached(ONE.of(schema))?.query_one([id.0], process)
}

fn process(row: &Row<'_>) -> rusqlite::Result<ProcessRecord> {
    let mut cells = Cells::of(row);
    let id = ProcessId(cells.take()?);
    let task = cells.task()?;
    let (owner, owner_program) = (InstanceId(cells.take()?), cells.take()?);
    let root = cells.take::<Option<i64>>()?.map(ProcessId);
    let (origin, token) = (cells.parse(Origin::parse)?, cells.parse_opt(uuid)?);
    let identity = identity(&mut cells)?;
    let (session, cgroup) = (cells.pid_opt()?, cgroup(&mut cells)?);
    let containment = cells.parse(Containment::parse)?;
    let keeper = keeper(&mut cells, identity.place)?;
    let (command, cwd, uid) = (cells.command()?, cells.take()?, cells.take()?);
    let state = cells.parse(State::parse)?;
    let claimed_by = cells.take::<Option<i64>>()?.map(InstanceId);
    let asked_by = cells.take()?;
    let (started_at, ended_at) = (cells.time()?, cells.time_opt()?);
    let status = cells.status(state == State::Ended)?;
    let end_reason = cells.parse_opt(EndReason::parse)?;
    let (end_rule, end_evidence) = (cells.take()?, cells.take()?);
    let limits = limits(&mut cells)?;
    let (peak_rss, cpu, last_error) = (cells.u64_opt()?, cells.millis_opt()?, cells.take()?);
    Ok(ProcessRecord {
        id,
        task,
        owner,
        owner_program,
        root,
        origin,
        token,
        identity,
        session,
        cgroup,
        containment,
        keeper,
        command,
        cwd,
        uid,
        state,
        claimed_by,
        asked_by,
        started_at,
        ended_at,
        status,
        end_reason,
        end_rule,
        end_evidence,
        limits,
        peak_rss,
        cpu,
        last_error,
    })
}

pub(super) fn identity(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Identity> {
    Ok(Identity {
        place: cells.place()?,
        pid: cells.pid()?,
        start_tick: cells.u64()?,
        pidfd_inode: cells.u64_opt()?,
    })
}

/// Reads the keeper, in the same place as its program: one host creates both.
fn keeper(cells: &mut Cells<'_, '_>, place: Place) -> rusqlite::Result<Option<Identity>> {
    let (pid, start_tick, pidfd_inode) = (cells.pid_opt()?, cells.u64_opt()?, cells.u64_opt()?);
    Ok(pid.zip(start_tick).map(|(pid, start_tick)| Identity {
        place,
        pid,
        start_tick,
        pidfd_inode,
    }))
}

fn cgroup(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Option<Cgroup>> {
    let (path, inode): (Option<String>, _) = (cells.take()?, cells.u64_opt()?);
    Ok(path.zip(inode).map(|(path, inode)| Cgroup { path: path.into(), inode }))
}

fn limits(cells: &mut Cells<'_, '_>) -> rusqlite::Result<Limits> {
    Ok(Limits {
        survive: cells.take()?,
        grace: cells.millis()?,
        max_runtime: cells.millis_opt()?,
        max_rss: cells.u64_opt()?,
    })
}
