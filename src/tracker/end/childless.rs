//! Roots that end without leaving a descendant. This is the usual end of a short program, and it is detected without scanning
//! every process.
//!
//! Whatever a root left was forked after the root. Where few PIDs have been allocated since then, only those are examined, each
//! for evidence that links it to the root: the task cgroup, the session and process group, the token. A process that is linked
//! to the tree by its parent alone is not searched for, since then its parent is one that is found. If any process is linked to
//! the root, or if anything cannot be determined, all of `/proc` is scanned as for any other root.

use std::sync::Arc;

use super::root_exit::Dead;
use crate::{
    identity::Pid,
    model::{ExitStatus, RootEnd},
    sys::cgroup::TaskCgroup,
    tracker::{
        core::Core,
        membership::evidence::{Tie, Ties, tie},
        runtime::tracked::Entry,
    },
};

/// A process may fork and exit before it is examined. PIDs that were allocated in the meantime are therefore examined as well,
/// until there are no new ones; this is the limit on such rounds.
const ROUNDS: u32 = 5;
/// Up to this many PIDs are examined one by one; beyond that, every process is scanned.
const FEW: u32 = 128;

impl Core {
    /// Records the ends of roots that certainly left no descendant; returns the others.
    pub(in crate::tracker) fn settle_alone<'a>(
        self: &Arc<Self>,
        mine: Vec<&'a Dead>,
        statuses: Vec<ExitStatus>,
    ) -> (Vec<&'a Dead>, Vec<ExitStatus>) {
        let all = mine.into_iter().zip(statuses);
        let (alone, mut others): (Vec<_>, Vec<_>) =
            all.partition(|((entry, _), _)| self.is_childless(entry));
        if !alone.is_empty() {
            let ends: Vec<RootEnd> = (alone.iter())
                .map(|((entry, _), status)| RootEnd {
                    process: entry.root.row,
                    end: self.own_end(entry, *status),
                    kept: Vec::new(),
                    strays: Vec::new(),
                })
                .collect();
            match self.store.settle_alone(self.instance.id, &ends) {
                Ok(settled) => {
                    for ((dead, status), settled) in alone.into_iter().zip(settled) {
                        if settled {
                            self.mark_ended(&dead.0, status);
                            self.reap_and_let_go(&dead.0, Some(&dead.1));
                        } else {
                            // Another thread is ending its tree and needs it: its zombie pins the PID that names the session.
                            others.push((dead, status));
                        }
                    }
                    self.notify_export();
                }
                // These get the full scan; what still cannot be written then is held in memory.
                Err(_) => others.extend(alone),
            }
        }
        others.into_iter().unzip()
    }

    /// Whether no process belongs to this dead root of ours, which still holds its PID.
    fn is_childless(&self, entry: &Entry) -> bool {
        let root = &entry.root;
        // Below a keeper, the keeper's children belong to the root too. A registered root may have descendants of any age.
        if !entry.child || entry.kept.is_some() {
            return false;
        }
        let ties = Ties::of(std::iter::once(root));
        let mut last = root.identity.pid.get();
        for _ in 0..ROUNDS {
            let Some(since) = self.proc.allocated_since(&root.identity) else { return false };
            if *since.end() <= last {
                // No process was forked since the others were examined: a process that had exited by then has left no
                // descendant either.
                return self.is_leaf_empty(entry);
            }
            let mut new = last + 1..=*since.end();
            last = *since.end();
            let few = last - root.identity.pid.get() <= FEW;
            let is_not_of = |number| {
                let pid = Pid::new(i64::from(number));
                pid.is_none_or(|pid| tie(&self.proc, &ties, pid) == Tie::None)
            };
            if !few || !new.all(is_not_of) {
                return false;
            }
        }
        false
    }

    fn is_leaf_empty(&self, entry: &Entry) -> bool {
        let Some(record) = &entry.root.cgroup else { return true };
        let Ok(leaf) = TaskCgroup::open(record, self.instance.observer.uid) else { return false };
        // Not determined from a list: a process that moves between nested cgroups may be missing from it.
        leaf.is_none_or(|leaf| leaf.is_empty())
    }
}
