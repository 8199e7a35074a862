//! Pinning what a look has found.
//!
//! A look names processes by their numbers, and a number may have changed hands before its pidfd is opened. The start tick
//! does not tell where both were started within the same 10 ms; for a process that nobody has recorded yet there is no inode
//! to compare either. So what ties it to its tree is looked at once more when it is pinned: what is read then, while it holds
//! its number, is its own.

use super::entry::Root;
use crate::{
    identity::{Pid, Place},
    os::{Pinned, Proc},
    plan::{members::Evidence, observe::Stat},
};

/// Pins the process that a snapshot has shown as a member; `None` where it has gone, or where its tie cannot be found again:
/// the next look finds it then, if it still is a member.
///
/// `holds` answers whether a member of this number is pinned and still has it.
pub(super) fn pin(
    proc: &Proc,
    place: Place,
    seen: &Stat,
    root: &Root,
    evidence: Evidence,
    holds: impl Fn(Pid) -> bool,
) -> Option<Pinned> {
    let pinned = Pinned::open(proc, place, seen.pid).ok().flatten()?;
    let tied = pinned.stat.start_tick == seen.start_tick
        && is_tied(proc, &pinned.stat, seen, root, evidence, holds)
        && pinned.holds_its_number();
    tied.then_some(pinned)
}

fn is_tied(
    proc: &Proc,
    now: &Stat,
    seen: &Stat,
    root: &Root,
    evidence: Evidence,
    holds: impl Fn(Pid) -> bool,
) -> bool {
    // A session that was begun below the root is entered by inheritance alone. One that bears the process's own number
    // tells nothing: a daemon that took the number bears it as well.
    let in_same_session =
        root.session.is_some() && now.session == seen.session && now.session != now.pid.get();
    match evidence {
        // Told by their whole identity, or by the time of their fork.
        Evidence::Root | Evidence::Recorded | Evidence::Told => true,
        Evidence::Leaf => root
            .cgroup
            .as_ref()
            .and_then(|leaf| leaf.path.file_name())
            .is_some_and(|name| proc.is_in_cgroup(now.pid, name)),
        Evidence::Session => now.session == seen.session,
        Evidence::Group => now.group == seen.group,
        Evidence::ChildOf(parent) => {
            in_same_session || (now.parent == parent.get() && holds(parent))
        }
        Evidence::Keeper => in_same_session || now.parent == seen.parent,
        Evidence::Token => root.token.is_some_and(|token| {
            proc.tokens(now.pid).is_some_and(|tokens| tokens.contains(&token))
        }),
    }
}
