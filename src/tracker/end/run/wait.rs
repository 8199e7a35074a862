//! Reports deaths of members by epoll: checking each of thousands of processes takes longer than they take to die.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{event::epoll, io::Errno};

use super::{member::Member, state::TreeRun};
use crate::sys::poll::timespec;

/// Maximum number of deaths that one turn reports.
const TURN: usize = 512;
/// After the first death of a turn, how long to wait, for each living member, for further deaths: a turn visits all trees.
const EACH: Duration = Duration::from_micros(1);
/// Upper limit on that wait.
const TOGETHER: Duration = Duration::from_millis(4);
/// With fewer living members than this, each death is reported on its own.
const MANY: u32 = 64;

/// Watches members, identified by the indexes of tree and member. Where a tree is removed, and others move, it must be
/// restarted.
#[derive(Debug)]
pub(super) struct Deaths(Option<OwnedFd>);

impl Deaths {
    pub(super) fn new() -> Self {
        Self(epoll::create(epoll::CreateFlags::CLOEXEC).ok())
    }

    /// Starts over with trees whose indexes have changed.
    pub(super) fn restart(trees: &mut [TreeRun]) -> Self {
        for member in trees.iter_mut().flat_map(|tree| &mut tree.members) {
            member.watched = false;
        }
        Self::new()
    }

    /// Waits until some of them die, at most `limit`, and marks those. `None` where not all of them can be watched: then
    /// nothing is known about the others, and no wait took place.
    pub(super) fn wait(&self, trees: &mut [TreeRun], limit: Duration) -> Option<bool> {
        let epoll = self.0.as_ref()?;
        let mut alive: u32 = 0;
        for (index, tree) in trees.iter_mut().enumerate() {
            for (number, member) in tree.members.iter_mut().enumerate() {
                if member.is_alive() {
                    watch(epoll, member, (index, number))?;
                    alive = alive.saturating_add(1);
                }
            }
        }
        if alive == 0 {
            return Some(false);
        }
        let mut any = turn(epoll, trees, limit)?;
        if any && alive >= MANY {
            std::thread::sleep((EACH * alive).min(TOGETHER).min(limit));
        }
        let mut more = any;
        while more {
            more = turn(epoll, trees, Duration::ZERO)?;
            any |= more;
        }
        Some(any)
    }
}

/// Adds a member that is not watched yet. Its death is reported once.
fn watch(epoll: &OwnedFd, member: &mut Member, (tree, number): (usize, usize)) -> Option<()> {
    if member.watched {
        return Some(());
    }
    let key = u64::from(u32::try_from(tree).ok()?) << 32 | u64::from(u32::try_from(number).ok()?);
    let fd = member.pinned.as_ref()?.fd();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
    epoll::add(epoll, fd, epoll::EventData::new_u64(key), flags).ok()?;
    member.watched = true;
    Some(())
}

/// Marks the members whose deaths were reported; returns whether there were any.
fn turn(epoll: &OwnedFd, trees: &mut [TreeRun], limit: Duration) -> Option<bool> {
    let mut events = Vec::with_capacity(TURN);
    let room = rustix::buffer::spare_capacity(&mut events);
    match epoll::wait(epoll, room, Some(&timespec(limit))) {
        Ok(_) => {}
        Err(Errno::INTR) => return Some(false),
        Err(_) => return None,
    }
    let mut any = false;
    for event in &events {
        // The structure is packed, so the field is copied before use.
        let data = event.data;
        let (tree, number) = (data.u64() >> 32, data.u64() & u64::from(u32::MAX));
        let tree = trees.get_mut(usize::try_from(tree).ok()?)?;
        any |= tree.members.get_mut(usize::try_from(number).ok()?)?.check_death();
    }
    Some(any)
}
