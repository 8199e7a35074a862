//! Who came while a look went on.
//!
//! A look lists the numbers of all processes and then reads each. A member that forks after its child's place in the list was
//! passed, and is gone before its own turn, is not seen, and neither is the child: of a root that has ended, nobody looks
//! again. The child has one of the numbers that were given meanwhile, so each of these is looked at.

use super::state::{Work, World};
use crate::{
    identity::Pid,
    sys::snapshot::Snapshot,
    tracker::membership::evidence::{Tie, Ties, tie},
};

/// Others come while these are looked at; then those as well.
const ROUNDS: u32 = 5;
/// So many at most: where more are forked during a look, it stands as it is.
const FEW: u32 = 128;

/// Whether somebody who is not in the snapshot belongs to one of the trees, so that another look finds more. `before`: the
/// last number that was given before it was taken.
pub(super) fn has_newcomers(
    world: &World<'_>,
    works: &[Work],
    snapshot: &Snapshot,
    before: Option<Pid>,
) -> bool {
    let Some(mut last) = before else { return false };
    let ties = Ties::of(works.iter().map(|work| &work.root));
    for _ in 0..ROUNDS {
        // Where the numbers have begun anew it is not told.
        let Some(now) = world.proc.last_given().filter(|now| *now > last) else { break };
        if now.get() - last.get() > FEW {
            break;
        }
        let new = (last.get() + 1..=now.get()).filter_map(|number| Pid::new(i64::from(number)));
        // Whoever is in the snapshot was judged by the look.
        let mut unseen = new.filter(|&pid| snapshot.get(pid).is_none());
        if unseen.any(|pid| belongs(world, &ties, pid)) {
            return true;
        }
        last = now;
    }
    works.iter().flat_map(|work| &work.unlisted).any(|&pid| lives(world, pid))
}

fn belongs(world: &World<'_>, ties: &Ties, pid: Pid) -> bool {
    match tie(world.proc, ties, pid) {
        Tie::None => false,
        Tie::Certain => true,
        // What may not be read is no member by the next look either.
        Tie::Untold => world.proc.is_in_exec(pid),
    }
}

fn lives(world: &World<'_>, pid: Pid) -> bool {
    matches!(world.proc.stat(pid), Ok(Some(stat)) if !stat.is_zombie())
}
