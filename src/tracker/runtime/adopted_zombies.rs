//! The known facts about zombies that tasks may leave to this process; see
//! [`crate::tracker::end::adopted_zombies`].

use std::{
    collections::{HashSet, VecDeque},
    ffi::{OsStr, OsString},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{lock::lock, shared_list::SharedList, tracked::Root};
use crate::{
    identity::{Identity, Pid},
    model::ProcessId,
    sys::PidFd,
};

/// How long checks continue after a root has ended; after that the health pass makes them.
const LINGER: Duration = Duration::from_secs(10);
/// Maximum number of ended roots that are remembered.
const REMEMBERED: usize = 1024;

/// The known facts about zombies, kept between scans.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Zombies {
    /// Children whose ends are recorded, but that are not reaped yet. Extended by ends, taken after
    /// each record and by passes.
    pub(in crate::tracker) unreaped: SharedList<Arc<PidFd>>,
    /// Roots that have ended. Written by the thread that releases a root, read by scans.
    ended: Mutex<Ended>,
    /// Zombies that are not in the ledger, by PID and start tick, so that it is not queried for
    /// them again. Written and read by scans.
    unknown: Mutex<HashSet<(Pid, u64)>>,
}

#[derive(Debug, Default)]
struct Ended {
    roots: VecDeque<Owner>,
    /// When the last of them ended.
    last: Option<Instant>,
}

/// A root from which zombies may come.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Owner {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) root: Identity,
    pub(in crate::tracker) session: Option<Pid>,
    /// The name of its cgroup, which is unique.
    pub(in crate::tracker) task_cgroup: Option<OsString>,
    /// For a root that has ended: the tick before which processes were started while the root had
    /// its PID. `None` if it must be checked whether the root still has its PID.
    pub(in crate::tracker) until: Option<u64>,
    /// Whether it had a keeper that a former image of this process started.
    pub(in crate::tracker) keeper: bool,
}

impl Owner {
    pub(in crate::tracker) fn new(root: &Root) -> Self {
        let task_cgroup = root.cgroup.as_ref().and_then(|task_cgroup| task_cgroup.path.file_name());
        Self {
            row: root.row,
            root: root.identity,
            session: root.session,
            task_cgroup: task_cgroup.map(OsStr::to_owned),
            until: None,
            keeper: false,
        }
    }
}

impl Zombies {
    /// Returns the roots that have ended and are remembered.
    pub(in crate::tracker) fn remembered(&self) -> Vec<Owner> {
        lock(&self.ended).roots.iter().cloned().collect()
    }

    /// Returns whether a root has ended so recently that zombies of its task may appear.
    pub(in crate::tracker) fn linger(&self) -> bool {
        lock(&self.ended).last.is_some_and(|last| last.elapsed() < LINGER)
    }

    /// Returns whether a keeper that a former image of this process started is still to be reaped.
    pub(in crate::tracker) fn expect_keeper(&self) -> bool {
        lock(&self.ended).roots.iter().any(|owner| owner.keeper)
    }

    /// Notes that the keeper of a root is reaped.
    pub(in crate::tracker) fn forget_keeper(&self, row: ProcessId) {
        let mut ended = lock(&self.ended);
        ended.roots.iter_mut().filter(|owner| owner.row == row).for_each(|it| it.keeper = false);
    }

    pub(in crate::tracker) fn is_full(&self) -> bool {
        lock(&self.ended).roots.len() >= REMEMBERED
    }

    pub(in crate::tracker) fn forget_older_half(&self) {
        let mut ended = lock(&self.ended);
        let older = ended.roots.len().min(REMEMBERED / 2);
        ended.roots.drain(..older);
    }

    /// Remembers a root that has ended.
    pub(in crate::tracker) fn remember(&self, owner: Owner) {
        let mut ended = lock(&self.ended);
        ended.last = Some(Instant::now());
        ended.roots.push_back(owner);
    }

    /// Forgets the unknown zombies that are not in `seen`; returns whether `seen` contains any
    /// others.
    pub(in crate::tracker) fn has_new(&self, seen: &HashSet<(Pid, u64)>) -> bool {
        let mut unknown = lock(&self.unknown);
        unknown.retain(|zombie| seen.contains(zombie));
        seen.iter().any(|zombie| !unknown.contains(zombie))
    }

    /// Notes that a zombie is not in the ledger.
    pub(in crate::tracker) fn add_unknown(&self, zombie: (Pid, u64)) {
        lock(&self.unknown).insert(zombie);
    }
}
