//! Suspects: processes that may belong to a tree without being certain members. They are reported,
//! and left running.

use std::{collections::HashSet, fmt};

use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// Maximum number of suspects that are reported for one tree, since any user may start more.
pub(crate) const LISTED: usize = 16;

/// Why a process is a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuspectReason {
    /// It carries the token, and serves a terminal: it may be a person's.
    Terminal,
    /// It carries the token, and has this effective uid, which is not that of the row: any user may
    /// put a token into an environment.
    OtherUser(u32),
    /// Its environment cannot be read, and it may have been forked below the root.
    Unreadable,
}

impl fmt::Display for SuspectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminal => f.write_str(
                "it carries the task's token, but has a controlling terminal: it may be a person's",
            ),
            Self::OtherUser(uid) => write!(
                f,
                "it carries the task's token, but belongs to uid {uid}: the task may have become that user, or that user may have copied the token; end it manually if it belongs to the task"
            ),
            Self::Unreadable => f.write_str(
                "its environment may not be read, and the process that started it is gone: the task may have left it; end it manually if it belongs to the task",
            ),
        }
    }
}

/// Returns processes that were orphaned and adopted, and are no older than `oldest`, in the order
/// of their pids.
///
/// A process whose parent is alive belongs to that parent, and is a member if the parent is one. An
/// orphan has one of the `adopters` as its parent, and is in its own session or that of a former
/// parent. A process that an adopter started itself is in the adopter's session, or has a row.
pub(crate) fn orphans<'a>(
    snapshot: &'a Snapshot,
    adopters: &HashSet<Pid>,
    oldest: u64,
) -> Vec<&'a Stat> {
    let mut found: Vec<&Stat> = Vec::new();
    for &adopter in adopters {
        let session = snapshot.get(adopter).map(|stat| stat.session);
        found.extend(snapshot.children(adopter).filter(|stat| {
            stat.start_tick >= oldest
                && Some(stat.session) != session
                && !stat.is_kernel_thread()
                && !stat.is_zombie()
        }));
    }
    found.sort_unstable_by_key(|stat| stat.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::snapshot::tests::{pid, stat};

    #[test]
    fn only_young_orphans_outside_of_their_adopters_session_are_suspects() {
        // 1 adopts; 5 is older than the root 10; 20 is an orphan; 21 its child; 30 a child of 1 in
        // its session; 41 has a parent of its own, which does not adopt.
        let all = [(1, 0, 1), (5, 1, 5), (10, 1, 10), (20, 1, 20), (21, 20, 20), (30, 1, 1)];
        let others = [(40, 1, 40), (41, 40, 41)];
        let all = all.into_iter().chain(others);
        let snapshot =
            Snapshot::new(all.map(|(number, parent, session)| stat(number, parent, session)));
        let found = orphans(&snapshot, &HashSet::from([pid(1)]), 10);
        let found: Vec<u32> = found.iter().map(|stat| stat.pid.get()).collect();
        assert_eq!(found, [10, 20, 40]);
    }

    #[test]
    fn a_zombie_or_a_kernel_thread_is_not_a_suspect() {
        let (mut zombie, mut thread) = (stat(20, 1, 20), stat(21, 1, 21));
        zombie.state = b'Z';
        thread.flags = 0x0020_0000;
        let snapshot = Snapshot::new([stat(1, 0, 1), zombie, thread]);
        assert_eq!(orphans(&snapshot, &HashSet::from([pid(1)]), 0), Vec::<&Stat>::new());
    }
}
