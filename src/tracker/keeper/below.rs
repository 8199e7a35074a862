//! What is below a keeper, for the health pass.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::shared::Shared;
use crate::{identity::Pid, os::keeper::keepers, plan::observe::Snapshot};

impl Shared {
    /// Keepers by the tokens of their trees, but for those that another live instance is below: there it proves nothing to
    /// be below one (invariant 13).
    pub(in super::super) fn telling_keepers(&self, snapshot: &Snapshot) -> HashMap<Uuid, Pid> {
        let mut found = keepers(&self.proc, snapshot);
        if found.is_empty() {
            return found;
        }
        match self.guards(&[]) {
            Ok(guards) => found.retain(|_, keeper| {
                let below = snapshot.below(*keeper);
                !below.contains(&self.own_pid())
                    && !guards.iter().any(|(instance, _)| below.contains(instance))
            }),
            // Whom to leave out is not known: nobody is recorded for being below a keeper.
            Err(_) => found.clear(),
        }
        found
    }
}
