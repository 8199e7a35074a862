//! Instances: runs of programs that have opened the ledger for writing.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    Store,
    migration::Schema,
    row_reader::{Cells, hex},
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Place},
    model::{InstanceId, InstanceRecord, Millis, NewInstance, ProcessId, StopHow},
};

/// The columns that [`instance`] reads, followed by the rest of the statement.
macro_rules! select_instances {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.program, i.machine_id, i.boot_id, i.pid_namespace, i.boottime_offset, ",
            "i.pid, i.start_tick, i.pidfd_inode, i.uid, i.lock_name, ",
            "i.ledger_device, i.ledger_inode, i.started_at, i.stopped_at, i.stopped_how ",
            $rest
        )
    };
}

pub(super) const TO_JUDGE: &str = select_instances!(
    "FROM (
                       SELECT id FROM instance WHERE stopped_at IS NULL
                       UNION
                       SELECT owner FROM process INDEXED BY process_live_owner
                       WHERE state <> 'ended'
                       UNION
                       SELECT claimed_by FROM process INDEXED BY process_live_owner
                       WHERE state <> 'ended' AND claimed_by IS NOT NULL
                     ) AS judged
                     CROSS JOIN instance AS i ON i.id = judged.id
                     ORDER BY i.id"
);

pub(super) const CGROUPS_LEFT: &str =
    "SELECT id, cgroup, cgroup_inode FROM instance INDEXED BY instance_cgroup
     WHERE cgroup IS NOT NULL AND stopped_at IS NOT NULL
       AND boot_id = :boot_id AND pid_namespace = :pid_namespace";

impl Store {
    /// Records this run of the program, with the ledger file that it opened.
    pub(crate) fn add_instance(&self, new: &NewInstance) -> Result<InstanceId> {
        let place = new.identity.place;
        let (device, inode) = self.file();
        self.write("record an instance", |tx| {
            tx.prepare_cached(
                "INSERT INTO instance (program, version, machine_id, boot_id, pid_namespace,
                   boottime_offset, pid, start_tick, pidfd_inode, uid, lock_name, ledger_device,
                   ledger_inode, started_at)
                 VALUES (:program, :version, :machine_id, :boot_id, :pid_namespace,
                   :boottime_offset, :pid, :start_tick, :pidfd_inode, :uid, :lock_name, :device,
                   :inode, :started_at)",
            )?
            .execute(named_params! {
                ":program": new.program,
                ":version": env!("CARGO_PKG_VERSION"),
                ":machine_id": place.machine_id.map(hex),
                ":boot_id": hex(place.boot_id),
                ":pid_namespace": place.pid_namespace.cast_signed(),
                ":boottime_offset": place.boottime_offset,
                ":pid": new.identity.pid.get(),
                ":start_tick": new.identity.start_tick.cast_signed(),
                ":pidfd_inode": new.identity.pidfd_inode.map(u64::cast_signed),
                ":uid": new.uid,
                ":lock_name": new.lock_name,
                ":device": device.cast_signed(),
                ":inode": inode.cast_signed(),
                ":started_at": new.started_at.0,
            })?;
            Ok(InstanceId(tx.last_insert_rowid()))
        })
    }

    /// Records how an instance stopped; `false` when that was already recorded.
    pub(crate) fn stop_instance(&self, id: InstanceId, how: StopHow, at: Millis) -> Result<bool> {
        self.write("stop an instance", |tx| mark_stopped(tx, id, how, at))
    }

    /// Records where an instance is about to create its branch; called before that, so that a crash in between loses nothing.
    ///
    /// # Errors
    ///
    /// Unsupported in a ledger that has no column for it.
    pub(crate) fn plan_cgroup(&self, id: InstanceId, path: &str) -> Result<()> {
        if self.schema() < Schema::CGROUP {
            let message =
                format!("the ledger has schema {}, which cannot record cgroups", self.schema());
            return Err(Error::new(Kind::Unsupported, message));
        }
        self.write("record a cgroup", |tx| {
            tx.prepare_cached("UPDATE instance SET cgroup = ?1, cgroup_inode = NULL WHERE id = ?2")?
                .execute((path, id.0))
                .map(|_| ())
        })
    }

    /// Records the inode of the branch that was planned.
    pub(crate) fn confirm_cgroup(&self, id: InstanceId, inode: u64) -> Result<()> {
        self.write("record a cgroup", |tx| {
            tx.prepare_cached("UPDATE instance SET cgroup_inode = ?1 WHERE id = ?2")?
                .execute((inode.cast_signed(), id.0))
                .map(|_| ())
        })
    }

    /// Records that the branch is gone.
    pub(crate) fn forget_cgroup(&self, id: InstanceId) -> Result<()> {
        if self.schema() < Schema::CGROUP {
            return Ok(());
        }
        self.write("record a cgroup", |tx| {
            tx.prepare_cached(
                "UPDATE instance SET cgroup = NULL, cgroup_inode = NULL WHERE id = ?1",
            )?
            .execute([id.0])
            .map(|_| ())
        })
    }

    /// Returns the branches that stopped instances in `here` have left: instance, folder, and its inode, where it was created.
    pub(crate) fn cgroups_left(
        &self,
        here: &Place,
    ) -> Result<Vec<(InstanceId, String, Option<u64>)>> {
        if self.schema() < Schema::CGROUP {
            return Ok(Vec::new());
        }
        self.glance("list the cgroups", |connection| {
            connection
                .prepare_cached(CGROUPS_LEFT)?
                .query_map(
                    named_params! {
                        ":boot_id": hex(here.boot_id),
                        ":pid_namespace": here.pid_namespace.cast_signed(),
                    },
                    |row| {
                        let inode: Option<i64> = row.get(2)?;
                        Ok((InstanceId(row.get(0)?), row.get(1)?, inode.map(i64::cast_unsigned)))
                    },
                )?
                .collect()
        })
    }

    /// Returns instances that may have left something: not stopped, or with a live row or claim.
    pub(crate) fn instances_to_judge(&self) -> Result<Vec<InstanceRecord>> {
        self.glance("list the instances", |connection| {
            connection.prepare_cached(TO_JUDGE)?.query_map([], instance)?.collect()
        })
    }

    /// Returns the start tick of the instance that recorded a row.
    pub(crate) fn first_owner_started(&self, row: ProcessId) -> Result<Option<u64>> {
        self.glance("look up which instance recorded a process", |connection| {
            connection
                .prepare_cached(
                    "SELECT f.start_tick FROM process AS p
                     CROSS JOIN instance AS f ON f.id = p.first_owner WHERE p.id = ?1",
                )?
                .query_one([row.0], |row| Cells::of(row).u64())
                .optional()
        })
    }

    /// Returns one instance.
    pub(crate) fn instance(&self, id: InstanceId) -> Result<Option<InstanceRecord>> {
        self.read("look up an instance", |connection| one(connection, id).optional())
    }
}

/// Returns one instance, within the read or the transaction of the caller.
pub(super) fn one(connection: &Connection, id: InstanceId) -> rusqlite::Result<InstanceRecord> {
    connection
        .prepare_cached(select_instances!("FROM instance AS i WHERE i.id = ?1"))?
        .query_one([id.0], instance)
}

/// Marks an instance as stopped, only where that was not recorded before.
pub(super) fn mark_stopped(
    connection: &rusqlite::Connection,
    id: InstanceId,
    how: StopHow,
    at: Millis,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "UPDATE instance SET stopped_at = ?1, stopped_how = ?2
             WHERE id = ?3 AND stopped_at IS NULL",
        )?
        .execute((at.0, how.as_str(), id.0))
        .map(|changed| changed == 1)
}

fn instance(row: &Row<'_>) -> rusqlite::Result<InstanceRecord> {
    let mut cells = Cells::of(row);
    Ok(InstanceRecord {
        id: InstanceId(cells.take()?),
        program: cells.take()?,
        identity: Identity {
            place: cells.place()?,
            pid: cells.pid()?,
            start_tick: cells.u64()?,
            pidfd_inode: cells.u64_opt()?,
        },
        uid: cells.take()?,
        lock_name: cells.take()?,
        ledger_file: (cells.u64()?, cells.u64()?),
        started_at: cells.time()?,
        stopped_at: cells.time_opt()?,
        stopped_how: cells.parse_opt(StopHow::parse)?,
    })
}
