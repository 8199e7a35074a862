//! Stopping what forks faster than a look at everything takes.
//!
//! A look reads all of `/proc`, then decides, then pins: on a busy machine a tenth of a second, in which a process that forks
//! and exits at once is gone, and another one in its place. The chase stops on sight instead. Its first round reads every
//! process, each later one only those that are new; so it is quicker than anything that has to be started.
//!
//! What it stops is no member by that. The look that follows decides, with all exemptions, and whoever is none of the members
//! is let go on at once.

use std::collections::HashSet;

use super::work::{Work, World};
use crate::{
    identity::Pid,
    os::{Pinned, Signal, procfs::this_tick},
    plan::observe::Stat,
};

/// New processes appear for as long as the machine lives; those of a storm are stopped within a few rounds.
const ROUNDS: u32 = 50;

/// Stops what looks like a member of an expired tree; it stays stopped while it is in the list.
pub(super) fn chase(world: &World<'_>, works: &[Work]) -> Vec<Pinned> {
    let trails: Vec<Trail<'_>> =
        works.iter().filter(|work| work.expired).map(|work| Trail::of(world, work)).collect();
    let mut seen = spared(world, works);
    let mut caught = Vec::new();
    for _ in 0..ROUNDS {
        let Ok(pids) = world.proc.pids() else { break };
        let before = caught.len();
        for pid in pids {
            if seen.insert(pid)
                && let Some(pinned) = catch(world, &trails, pid)
            {
                caught.push(pinned);
            }
        }
        if caught.len() == before {
            break;
        }
    }
    caught
}

/// Lets those go on that the look has not found to be members that are to be ended.
pub(super) fn release(works: &[Work], caught: Vec<Pinned>) {
    for pinned in caught {
        let is_ours = works.iter().any(|work| {
            let member = work.pids.get(&pinned.pid()).map(|&index| &work.members[index]);
            member.is_some_and(|member| {
                member.kept.is_none() && member.identity.start_tick == pinned.stat.start_tick
            })
        });
        if !is_ours {
            let _ = pinned.signal(Signal::CONT);
        }
    }
}

/// Whoever is certainly not to be stopped, or is known already.
fn spared(world: &World<'_>, works: &[Work]) -> HashSet<Pid> {
    let mut spared: HashSet<Pid> = world.ancestors.iter().copied().chain([world.own]).collect();
    for (instance, theirs) in &world.guards {
        spared.extend(theirs.iter().copied().chain([*instance]));
    }
    for work in works {
        spared.extend(work.pids.keys());
        spared.extend(work.leave.before.iter().map(|identity| identity.pid));
    }
    spared
}

/// What leads to the unknown members of a tree.
struct Trail<'a> {
    work: &'a Work,
    /// Its session, while a verified member pins it.
    session: Option<Pid>,
}

impl<'a> Trail<'a> {
    fn of(world: &World<'_>, work: &'a Work) -> Self {
        let is_in = |session: Pid, stat: &Stat| {
            stat.session == session.get() || stat.group == session.get()
        };
        let session = work.root.session.filter(|session| {
            work.members.iter().any(|member| {
                let stat = world.proc.stat(member.identity.pid).ok().flatten();
                member.pinned.as_ref().is_some_and(Pinned::holds_its_number)
                    && stat.is_some_and(|stat| {
                        stat.start_tick == member.identity.start_tick && is_in(*session, &stat)
                    })
            })
        });
        Self { work, session }
    }

    fn leads_to(&self, world: &World<'_>, stat: &Stat) -> bool {
        if self.session.is_some_and(|id| stat.session == id.get() || stat.group == id.get()) {
            return true;
        }
        let root = &self.work.root;
        let Some(token) = root.token else { return false };
        stat.start_tick >= root.identity.start_tick
            && world.proc.tokens(stat.pid).is_some_and(|tokens| tokens.contains(&token))
            && world.proc.uid(stat.pid).ok().flatten() == Some(root.uid)
    }
}

fn catch(world: &World<'_>, trails: &[Trail<'_>], pid: Pid) -> Option<Pinned> {
    let began = this_tick();
    let stat = world.proc.stat(pid).ok()??;
    // What has a terminal may be a person's, and is for the look to judge.
    if stat.is_kernel_thread() || stat.is_zombie() || stat.is_stopped() || stat.terminal != 0 {
        return None;
    }
    if !trails.iter().any(|trail| trail.leads_to(world, &stat)) {
        return None;
    }
    let pinned = Pinned::open(world.proc, world.observer.place, pid).ok()??;
    // The number may have changed hands since, and within a tick the start does not tell.
    let leads = || trails.iter().any(|trail| trail.leads_to(world, &pinned.stat));
    let same = pinned.stat.start_tick == stat.start_tick
        && (stat.start_tick < began || leads() && pinned.holds_its_number());
    if !same {
        return None;
    }
    pinned.signal(Signal::STOP).ok()?;
    Some(pinned)
}
