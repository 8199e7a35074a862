//! New rows: a program runs only after its row, with its whole identity, is committed.

use rusqlite::{OptionalExtension, named_params};

use super::{Store, migration::Schema, row_reader::hex, transaction::Transaction};
use crate::{
    error::{Error, Kind, Result},
    identity::{Pid, Place},
    model::{NewProcess, ProcessId, TaskId, millis, state::State},
    redact::mask_command,
};

impl Store {
    /// Records a batch in one transaction; an outer error means that nothing of it was committed.
    ///
    /// A task that has a root alive in `here` is refused, and only that item: a root alive elsewhere cannot be judged from
    /// here, and blocks nothing.
    pub(crate) fn admit(
        &self,
        here: &Place,
        batch: &[NewProcess],
    ) -> Result<Vec<Result<ProcessId>>> {
        self.write_patiently("record a process", |tx| admit(tx, here, batch))
    }

    /// Does the same for processes that were found below a root, and are ended whether they can be recorded or not.
    pub(crate) fn admit_found(
        &self,
        here: &Place,
        batch: &[NewProcess],
    ) -> Result<Vec<Result<ProcessId>>> {
        self.write("record a process", |tx| admit(tx, here, batch))
    }
}

fn admit(
    tx: &Transaction<'_>,
    here: &Place,
    batch: &[NewProcess],
) -> rusqlite::Result<Vec<Result<ProcessId>>> {
    let admit = |new| match refusal(tx, here, new)? {
        Some(refused) => Ok(Err(refused)),
        None => insert(tx, new).map(Ok),
    };
    batch.iter().map(admit).collect()
}

fn refusal(
    tx: &Transaction<'_>,
    here: &Place,
    new: &NewProcess,
) -> rusqlite::Result<Option<Error>> {
    if !matches!(new.state, State::Running | State::Ending) {
        let message = format!("a new row cannot be {}", new.state.as_str());
        return Ok(Some(Error::invalid(message)));
    }
    let (Some(task), None) = (&new.task, new.root) else { return Ok(None) };
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

/// Returns pid and state of a root that prevents another root of its task.
fn alive(
    tx: &Transaction<'_>,
    here: &Place,
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

/// The columns of schema 1, followed by those that the ledger has in addition.
macro_rules! insert_process {
    ($columns:literal, $values:literal) => {
        concat!(
            "INSERT INTO process (task_id, owner, first_owner, root, origin, token, pid, start_tick, ",
            "pidfd_inode, session, cgroup, cgroup_inode, containment, command, cwd, uid, state, claimed_by, started_at, ",
            "survive, grace_ms, max_runtime_ms, max_rss_bytes, peak_rss_bytes, cpu_ms",
            $columns,
            ") VALUES (:task, coalesce((SELECT owner FROM process WHERE id = :root), :owner), :owner, :root, :origin, ",
            ":token, :pid, :start_tick, ",
            ":pidfd_inode, :session, :cgroup, :cgroup_inode, :containment, :command, :cwd, :uid, :state, :claimed_by, ",
            ":started_at, :survive, :grace, :max_runtime, :max_rss, :peak_rss, :cpu",
            $values,
            ")"
        )
    };
}

/// Inserts one complete row: its first owner is the instance that records it, which names boot and namespace. A descendant
/// belongs to the owner of its root, whichever instance has found it: an instance that ends the tree of another, and dies
/// during that, leaves no rows that a third one would take for those of a dead owner.
pub(super) fn insert(tx: &Transaction<'_>, new: &NewProcess) -> rusqlite::Result<ProcessId> {
    let claimed_by = (new.state == State::Ending).then_some(new.owner.0);
    // The code that created the row may have masked it already; masking twice changes nothing, and this is the only way to the
    // disk.
    let command = serde_json::to_string(&mask_command(&new.command))
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let cells = named_params! {
        ":task": new.task.as_ref().map(TaskId::as_str),
        ":owner": new.owner.0,
        ":root": new.root.map(|root| root.0),
        ":origin": new.origin.as_str(),
        ":token": new.token.map(hex),
        ":pid": new.identity.pid.get(),
        ":start_tick": new.identity.start_tick.cast_signed(),
        ":pidfd_inode": new.identity.pidfd_inode.map(u64::cast_signed),
        ":session": new.session.map(Pid::get),
        ":cgroup": new.cgroup.as_ref().map(|cgroup| cgroup.path.to_string_lossy()),
        ":cgroup_inode": new.cgroup.as_ref().map(|cgroup| cgroup.inode.cast_signed()),
        ":containment": new.containment.as_str(),
        ":command": command,
        ":cwd": new.cwd,
        ":uid": new.uid,
        ":state": new.state.as_str(),
        ":claimed_by": claimed_by,
        ":started_at": new.started_at.0,
        ":survive": new.limits.survive,
        ":grace": millis(new.limits.grace),
        ":max_runtime": new.limits.max_runtime.map(millis),
        ":max_rss": new.limits.max_rss.map(u64::cast_signed),
        ":peak_rss": new.peak_rss.map(u64::cast_signed),
        ":cpu": new.cpu.map(millis),
        // Schema 2 and later.
        ":evidence": new.evidence,
        // Schema 5 and later.
        ":keeper_pid": new.keeper.map(|keeper| keeper.pid.get()),
        ":keeper_tick": new.keeper.map(|keeper| keeper.start_tick.cast_signed()),
        ":keeper_inode": new.keeper.and_then(|keeper| keeper.pidfd_inode).map(u64::cast_signed),
    };
    let (sql, missing) = match tx.schema() {
        schema if schema < Schema::CGROUP => (insert_process!("", ""), 4),
        schema if schema < Schema::KEEPER => (insert_process!(", evidence", ", :evidence"), 3),
        _ => (
            insert_process!(
                ", evidence, keeper_pid, keeper_start_tick, keeper_pidfd_inode",
                ", :evidence, :keeper_pid, :keeper_tick, :keeper_inode"
            ),
            0,
        ),
    };
    tx.prepare_cached(sql)?.execute(&cells[..cells.len() - missing])?;
    Ok(ProcessId(tx.last_insert_rowid()))
}
