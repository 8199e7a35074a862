//! Reports deaths of members by epoll, since checking each of thousands of processes takes longer
//! than they take to die.

use std::time::Duration;

use super::{member::Member, state::TreeRun};
use crate::sys::epoll::Readiness;

/// How long to wait for further deaths after the first one of a turn, for each live member, since a
/// turn visits all trees.
const EACH: Duration = Duration::from_micros(1);
/// Upper limit on that wait.
const TOGETHER: Duration = Duration::from_millis(4);
/// With fewer living members than this, each death is reported on its own.
const MANY: u32 = 64;

/// Watches members, which are identified by the indexes of tree and member. It must be restarted
/// when a tree is removed and others move.
#[derive(Debug)]
pub(super) struct Deaths(Option<Readiness>);

impl Deaths {
    pub(super) fn new() -> Self {
        Self(Readiness::new().ok())
    }

    /// Restarts with trees whose indexes have changed.
    pub(super) fn restart(trees: &mut [TreeRun]) -> Self {
        for member in trees.iter_mut().flat_map(|tree| &mut tree.members) {
            member.watched = false;
        }
        Self::new()
    }

    /// Waits until some members die, at most `limit`, and marks those. Returns `None` if not all of
    /// them can be watched: then nothing is known about the others, and no wait took place.
    pub(super) fn wait(&self, trees: &mut [TreeRun], limit: Duration) -> Option<bool> {
        let readiness = self.0.as_ref()?;
        let mut alive: u32 = 0;
        for (index, tree) in trees.iter_mut().enumerate() {
            for (number, member) in tree.members.iter_mut().enumerate() {
                if member.is_alive() {
                    watch(readiness, member, (index, number))?;
                    alive = alive.saturating_add(1);
                }
            }
        }
        if alive == 0 {
            return Some(false);
        }
        let mut any = turn(readiness, trees, limit)?;
        if any && alive >= MANY {
            std::thread::sleep((EACH * alive).min(TOGETHER).min(limit));
        }
        let mut more = any;
        while more {
            more = turn(readiness, trees, Duration::ZERO)?;
            any |= more;
        }
        Some(any)
    }
}

/// Adds a member that is not watched yet; its death is reported once.
fn watch(readiness: &Readiness, member: &mut Member, (tree, number): (usize, usize)) -> Option<()> {
    if member.watched {
        return Some(());
    }
    let key = u64::from(u32::try_from(tree).ok()?) << 32 | u64::from(u32::try_from(number).ok()?);
    readiness.add_once(member.pinned.as_ref()?.fd(), key).ok()?;
    member.watched = true;
    Some(())
}

/// Marks the members whose deaths were reported; returns whether there were any.
fn turn(readiness: &Readiness, trees: &mut [TreeRun], limit: Duration) -> Option<bool> {
    let mut any = false;
    for key in readiness.wait(limit).ok()? {
        let (tree, number) = (key >> 32, key & u64::from(u32::MAX));
        let tree = trees.get_mut(usize::try_from(tree).ok()?)?;
        // The kernel reported its death, so it need not be polled.
        any |= tree.members.get_mut(usize::try_from(number).ok()?)?.note_death();
    }
    Some(any)
}
