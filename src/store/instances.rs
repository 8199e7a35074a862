//! Instances: runs of programs that have opened the ledger for writing.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    Store,
    cell::{RowReader, hex},
    migration::Schema,
    setup::APPLICATION_ID,
    table::{self, table},
    wal_origin,
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, PidScope},
    model::{InstanceId, InstanceRecord, Millis, NewInstance, ProcessId, StopHow},
};

table! {
    "instance",
    insert(new: &NewInstance, (ledger_device, ledger_inode) => (u64, u64)),
    read(id => InstanceId) -> InstanceRecord,
    {
        program = new.program;
        machine_id = new.identity.scope.machine_id;
        boot_id = new.identity.scope.boot_id;
        pid_namespace = new.identity.scope.pid_namespace;
        boottime_offset = new.identity.scope.boottime_offset;
        pid = new.identity.pid;
        start_tick = new.identity.start_tick;
        pidfd_inode = new.identity.pidfd_inode;
        lock_name = new.lock_name;
        ledger_device = ledger_device;
        ledger_inode = ledger_inode;
        stopped_at = None::<Millis>;
        stopped_how = None::<StopHow>;
    },
    unread {
        version = env!("CARGO_PKG_VERSION").to_owned();
        uid = new.uid;
        started_at = new.started_at;
    },
    InstanceRecord {
        id,
        program,
        identity: Identity {
            scope: PidScope { machine_id, boot_id, pid_namespace, boottime_offset },
            pid,
            start_tick,
            pidfd_inode,
        },
        lock_name,
        ledger_file: (ledger_device, ledger_inode),
        stopped_at,
        stopped_how,
    }
}

pub(super) fn to_judge(schema: Schema) -> String {
    select(schema, TO_JUDGE)
}

/// Returns the statement that selects rows `i` for [`instance`]. `from` is the text after FROM.
fn select(schema: Schema, from: &str) -> String {
    format!("SELECT i.id, {} FROM {from}", table::select("i", schema, COLUMNS))
}

const TO_JUDGE: &str = "(
                       SELECT id FROM instance WHERE stopped_at IS NULL
                       UNION
                       SELECT owner FROM process INDEXED BY process_live_owner
                       WHERE state <> 'ended'
                       UNION
                       SELECT claimed_by FROM process INDEXED BY process_live_owner
                       WHERE state <> 'ended' AND claimed_by IS NOT NULL
                     ) AS judged
                     CROSS JOIN instance AS i ON i.id = judged.id
                     ORDER BY i.id";

pub(super) const CGROUPS_LEFT: &str =
    "SELECT id, cgroup, cgroup_inode FROM instance INDEXED BY instance_cgroup
     WHERE cgroup IS NOT NULL AND stopped_at IS NOT NULL
       AND boot_id = :boot_id AND pid_namespace = :pid_namespace";

impl Store {
    /// Records this run of the program and the ledger file that it opened.
    pub(crate) fn add_instance(&self, new: &NewInstance) -> Result<InstanceId> {
        self.write("record an instance", |tx| {
            wal_origin::mark(tx, APPLICATION_ID)?;
            insert_row(tx, new, self.file()).map(InstanceId)
        })
    }

    /// Records how an instance stopped; returns `false` if that was already recorded.
    pub(crate) fn stop_instance(&self, id: InstanceId, how: StopHow, at: Millis) -> Result<bool> {
        self.write("stop an instance", |tx| mark_stopped(tx, id, how, at))
    }

    /// Records where an instance is about to create its cgroup; called before that, so that a crash
    /// in between loses nothing.
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

    /// Records the inode of the cgroup that was planned.
    pub(crate) fn confirm_cgroup(&self, id: InstanceId, inode: u64) -> Result<()> {
        self.write("record a cgroup", |tx| {
            tx.prepare_cached("UPDATE instance SET cgroup_inode = ?1 WHERE id = ?2")?
                .execute((inode.cast_signed(), id.0))
                .map(|_| ())
        })
    }

    /// Records that the cgroup is gone.
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

    /// Returns the cgroups that stopped instances in `here` left: the instance, the folder and, if
    /// it was created, the inode.
    pub(crate) fn cgroups_left(
        &self,
        here: &PidScope,
    ) -> Result<Vec<(InstanceId, String, Option<u64>)>> {
        if self.schema() < Schema::CGROUP {
            return Ok(Vec::new());
        }
        self.try_read("list the cgroups", |connection| {
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
    pub(crate) fn instances_to_check(&self) -> Result<Vec<InstanceRecord>> {
        self.try_read("list the instances", |connection| {
            connection.prepare_cached(&to_judge(self.schema()))?.query_map([], instance)?.collect()
        })
    }

    /// Returns the start tick of the instance that recorded a row.
    pub(crate) fn first_owner_started(&self, row: ProcessId) -> Result<Option<u64>> {
        self.try_read("look up which instance recorded a process", |connection| {
            connection
                .prepare_cached(
                    "SELECT f.start_tick FROM process AS p
                     CROSS JOIN instance AS f ON f.id = p.first_owner WHERE p.id = ?1",
                )?
                .query_one([row.0], |row| RowReader::of(row).take())
                .optional()
        })
    }

    /// Returns one instance.
    pub(crate) fn instance(&self, id: InstanceId) -> Result<Option<InstanceRecord>> {
        self.read("look up an instance", |connection| one(connection, self.schema(), id).optional())
    }
}

/// Returns one instance, within a read or a transaction of the caller.
pub(super) fn one(
    connection: &Connection,
    schema: Schema,
    id: InstanceId,
) -> rusqlite::Result<InstanceRecord> {
    connection
        .prepare_cached(&select(schema, "instance AS i WHERE i.id = ?1"))?
        .query_one([id.0], instance)
}

/// Marks an instance as stopped, unless that was already recorded.
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
    let mut reader = RowReader::of(row);
    let id = reader.take()?;
    read_row(&mut reader, id)
}
