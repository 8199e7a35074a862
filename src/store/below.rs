//! What is recorded below roots: asked for all of them in one read, however many are ended together.

use rusqlite::Connection;

use super::{
    Store,
    query::{KEPT_BELOW, identity},
    rows::Cells,
};
use crate::{error::Result, identity::Identity, record::ProcessId};

/// What the ledger has below one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Below {
    /// Descendants that have not ended.
    pub(crate) live: Vec<(ProcessId, Identity)>,
    /// What was left on purpose: it is nobody's to end, whatever else is done to the tree.
    pub(crate) kept: Vec<Identity>,
}

pub(super) const LIVE_BELOW: &str =
    "SELECT p.id, f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset,
       p.pid, p.start_tick, p.pidfd_inode
     FROM process AS p INDEXED BY process_root
     CROSS JOIN instance AS f ON f.id = p.first_owner
     WHERE p.root = ?1 AND p.state <> 'ended' ORDER BY p.started_at, p.id";

impl Store {
    /// For each of `roots`, in their order. One that does not exist has nothing below it.
    pub(crate) fn below(&self, roots: &[ProcessId]) -> Result<Vec<Below>> {
        self.read("list what is below processes", |connection| {
            // Within one transaction the locks are taken once, and what was read stays in the cache.
            let all = connection.unchecked_transaction()?;
            let below = roots.iter().map(|root| below(&all, *root)).collect();
            all.finish()?;
            below
        })
    }
}

fn below(connection: &Connection, root: ProcessId) -> rusqlite::Result<Below> {
    let live = connection
        .prepare_cached(LIVE_BELOW)?
        .query_map([root.0], |row| {
            let mut cells = Cells::of(row);
            Ok((ProcessId(cells.take()?), identity(&mut cells)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let kept = connection
        .prepare_cached(KEPT_BELOW)?
        .query_map([root.0], |row| identity(&mut Cells::of(row)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Below { live, kept })
}
