//! The recorded descendants of roots. One read queries those of all roots that are ended together.

use std::collections::HashMap;

use rusqlite::{Connection, named_params};

use super::{
    Store,
    cell::{RowReader, hex},
    process_queries::{KEPT_BELOW, identity},
};
use crate::{
    error::Result,
    identity::Identity,
    model::{InstanceId, ProcessId},
};

/// The recorded descendants of one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordedDescendants {
    /// Descendants that have not ended.
    pub(crate) live: Vec<(ProcessId, Identity)>,
    /// Processes that were left running on purpose; they must not be ended with the tree.
    pub(crate) spared: Vec<Identity>,
}

pub(super) const LIVE_BELOW: &str =
    "SELECT p.id, f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset,
       p.pid, p.start_tick, p.pidfd_inode
     FROM process AS p INDEXED BY process_root
     CROSS JOIN instance AS f ON f.id = p.first_owner
     WHERE p.root = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id";

impl Store {
    /// Returns the descendants of each of `roots`. A root that does not exist has none.
    pub(crate) fn descendants(
        &self,
        roots: &[ProcessId],
    ) -> Result<HashMap<ProcessId, RecordedDescendants>> {
        self.read("list the descendants of processes", |connection| {
            // Within one transaction the locks are taken once, and the data that was read stays in
            // the cache.
            let all = connection.unchecked_transaction()?;
            let found = roots.iter().map(|root| Ok((*root, descendants(&all, *root)?))).collect();
            all.finish()?;
            found
        })
    }
}

const ROOTS_OF_FORMER_IMAGES: &str =
    "SELECT f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset,
       p.pid, p.start_tick, p.pidfd_inode
     FROM instance AS f
     CROSS JOIN process AS p INDEXED BY process_ended
       ON p.ended_at >= f.started_at AND p.first_owner = f.id
     WHERE f.pid = :pid AND f.start_tick = :start_tick AND f.boot_id = :boot_id
       AND f.pid_namespace = :pid_namespace AND f.id <> :own
       AND p.root IS NULL AND p.origin = 'spawned'
     ORDER BY p.ended_at DESC LIMIT 10000";

impl Store {
    /// Returns the ended roots that former program images of the process `own` started, the last
    /// ended first, 10,000 at most.
    pub(crate) fn roots_of_former_images(
        &self,
        own: &Identity,
        except: InstanceId,
    ) -> Result<Vec<Identity>> {
        self.read("list the roots of former images", |connection| {
            connection
                .prepare_cached(ROOTS_OF_FORMER_IMAGES)?
                .query_map(
                    named_params! {
                        ":pid": own.pid.get(),
                        ":start_tick": own.start_tick.cast_signed(),
                        ":boot_id": hex(own.scope.boot_id),
                        ":pid_namespace": own.scope.pid_namespace.cast_signed(),
                        ":own": except.0,
                    },
                    |row| identity(&mut RowReader::of(row)),
                )?
                .collect()
        })
    }
}

fn descendants(connection: &Connection, root: ProcessId) -> rusqlite::Result<RecordedDescendants> {
    let live = live_below(connection, root)?;
    let spared = connection
        .prepare_cached(KEPT_BELOW)?
        .query_map([root.0], |row| identity(&mut RowReader::of(row)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(RecordedDescendants { live, spared })
}

/// Returns the descendants of a root that have not ended.
pub(super) fn live_below(
    connection: &Connection,
    root: ProcessId,
) -> rusqlite::Result<Vec<(ProcessId, Identity)>> {
    let mut statement = connection.prepare_cached(LIVE_BELOW)?;
    let rows = statement.query_map([root.0], |row| {
        let mut reader = RowReader::of(row);
        Ok((reader.take()?, identity(&mut reader)?))
    })?;
    rows.collect()
}
