//! A root that ends and leaves nobody: the usual end of a short program, told without a look at every process.
//!
//! What it left was forked after it was: where the numbers that were given since are few, only those are looked at, each
//! for what would tie it to the root: its leaf, its session and process group, its token. What stands below one of these
//! by its parent alone is not looked for, since then that one is there. If anyone is tied to it, or anything cannot be
//! told, the whole of `/proc` is looked at as for any other root.

use std::sync::Arc;

use super::root_exit::Dead;
use crate::{
    identity::Pid,
    model::{ExitStatus, RootEnd},
    sys::cgroup::Leaf,
    tracker::{
        membership::evidence::{Tie, Ties, tie},
        runtime::{shared::Shared, tracked::Entry},
    },
};

/// Somebody may fork and be gone before it is looked at: who has come meanwhile is looked at as well, until nobody has.
const ROUNDS: u32 = 5;
/// Of so many numbers each is looked at; beyond that, every process.
const FEW: u32 = 128;

impl Shared {
    /// Records the ends of those that certainly left nobody; answers with the others.
    pub(in crate::tracker) fn settle_alone<'a>(
        self: &Arc<Self>,
        mine: Vec<&'a Dead>,
        statuses: Vec<ExitStatus>,
    ) -> (Vec<&'a Dead>, Vec<ExitStatus>) {
        let all = mine.into_iter().zip(statuses);
        let (alone, mut others): (Vec<_>, Vec<_>) =
            all.partition(|((entry, _), _)| self.leaves_nobody(entry));
        if !alone.is_empty() {
            let ends: Vec<RootEnd> = (alone.iter())
                .map(|((entry, _), status)| RootEnd {
                    process: entry.root.row,
                    end: self.own_end(entry, *status),
                    kept: Vec::new(),
                    strays: Vec::new(),
                })
                .collect();
            match self.store.settle_alone(self.instance, &ends) {
                Ok(settled) => {
                    for ((dead, status), settled) in alone.into_iter().zip(settled) {
                        if settled {
                            self.mark_ended(&dead.0, status);
                            self.reap_and_let_go(&dead.0, Some(&dead.1));
                        } else {
                            // Whoever is ending its tree needs it: its zombie pins the number of the session.
                            others.push((dead, status));
                        }
                    }
                    self.notify_export();
                }
                // What cannot be written now is looked at in full, and waits in memory.
                Err(_) => others.extend(alone),
            }
        }
        others.into_iter().unzip()
    }

    /// Whether nobody is there who belongs to a dead root of ours, which still has its number.
    fn leaves_nobody(&self, entry: &Entry) -> bool {
        let root = &entry.root;
        // Below a keeper, its children belong to the root too. One that was registered may be older than what is below it.
        if !entry.child || entry.kept.is_some() {
            return false;
        }
        let ties = Ties::of(std::iter::once(root));
        let mut last = root.identity.pid.get();
        for _ in 0..ROUNDS {
            let Some(since) = self.proc.numbers_since(&root.identity) else { return false };
            if *since.end() <= last {
                // Nobody was forked since the others were looked at: one that was gone by then has left nobody either.
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
        let Ok(leaf) = Leaf::open(record, self.observer.uid) else { return false };
        // Not by a list: a process that moves between nested cgroups may be missing from it.
        leaf.is_none_or(|leaf| leaf.is_empty())
    }
}
