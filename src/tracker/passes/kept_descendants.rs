//! Finds the processes below a keeper, for the health pass.

use std::collections::HashMap;

use crate::{
    identity::Pid,
    model::{ProcessId, ProcessRecord},
    sys::snapshot::Snapshot,
    tracker::core::Core,
};

impl Core {
    /// Returns the keepers of these roots, except those that another live instance is below: then being below the keeper proves
    /// nothing (invariant 13).
    pub(in crate::tracker) fn telling_keepers<'a>(
        &self,
        snapshot: &Snapshot,
        roots: impl Iterator<Item = &'a ProcessRecord>,
    ) -> HashMap<ProcessId, Pid> {
        let kept = roots.filter_map(|row| Some((row.id, self.keeper_in(snapshot, row)?)));
        let mut found: HashMap<ProcessId, Pid> = kept.collect();
        if found.is_empty() {
            return found;
        }
        match self.guards(&[]) {
            Ok(guards) => found.retain(|_, keeper| {
                let below = snapshot.below(*keeper);
                !below.contains(&self.own_pid())
                    && !guards.iter().any(|(instance, _)| below.contains(instance))
            }),
            // It is unknown which processes to leave out: none is recorded for being below a keeper.
            Err(_) => found.clear(),
        }
        found
    }
}
