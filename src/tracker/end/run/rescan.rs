//! Stops processes that fork faster than a scan of all processes takes.
//!
//! A scan reads all of `/proc`, then decides, then pins. On a busy machine this takes a tenth of a
//! second, by which time a process that forks and exits at once is gone, with another one in its
//! place. The rescan stops processes on sight instead. Its first round reads every process, each
//! later round only new ones, which is faster than a program can be started.
//!
//! Being stopped does not make a process a member. The following scan decides, with all exemptions,
//! and a process that is not a member is resumed at once.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::state::{EndContext, TreeRun};
use crate::{
    identity::Pid,
    policy::token_holders::TokenOwner,
    sys::{Pinned, Signal, proc::this_tick, snapshot::Stat},
};

/// Limit on rounds, since new processes appear all the time. Those of a fork storm are stopped
/// within a few rounds.
const ROUNDS: u32 = 50;

/// Stops processes that look like members of a tree that is being frozen, and returns them.
pub(super) fn stop_on_sight(context: &EndContext<'_>, trees: &[TreeRun]) -> Vec<Pinned> {
    let evidence = LiveEvidence::of(context, trees);
    let mut seen = spared(context, trees);
    let mut stopped = Vec::new();
    for _ in 0..ROUNDS {
        let Ok(pids) = context.proc.pids() else { break };
        let before = stopped.len();
        for pid in pids {
            if seen.insert(pid)
                && let Some(pinned) = stop_if_linked(context, &evidence, pid)
            {
                stopped.push(pinned);
            }
        }
        if stopped.len() == before {
            break;
        }
    }
    stopped
}

/// Resumes processes that, according to the scan, are not to be ended.
pub(super) fn resume(trees: &[TreeRun], stopped: Vec<Pinned>) {
    for pinned in stopped {
        let is_ours = trees.iter().any(|tree| {
            let member = tree.pids.get(&pinned.pid()).map(|&index| &tree.members[index]);
            member.is_some_and(|member| {
                member.spared().is_none()
                    && member.info.identity.start_tick == pinned.stat.start_tick
            })
        });
        if !is_ours {
            let _ = pinned.signal(Signal::CONT);
        }
    }
}

/// Returns the PIDs of processes that certainly must not be stopped, or are already known.
fn spared(context: &EndContext<'_>, trees: &[TreeRun]) -> HashSet<Pid> {
    let mut spared: HashSet<Pid> = context.untouchable().collect();
    for tree in trees {
        spared.extend(tree.pids.keys());
        spared.extend(tree.exemptions.before.iter().map(|identity| identity.pid));
    }
    spared
}

/// The evidence for unknown members of all trees that are being frozen. Each process is read once,
/// however many trees there are.
struct LiveEvidence {
    /// Sessions and process groups that a verified member pins.
    sessions: HashSet<u32>,
    tokens: HashMap<Uuid, TokenOwner>,
}

impl LiveEvidence {
    fn of(context: &EndContext<'_>, trees: &[TreeRun]) -> Self {
        let frozen = || trees.iter().filter(|tree| tree.stage.freezes());
        let sessions = frozen().filter_map(|tree| pinned_session(context, tree)).map(Pid::get);
        let tokens = frozen().filter_map(TreeRun::token_owner);
        Self { sessions: sessions.collect(), tokens: tokens.collect() }
    }

    fn links(&self, context: &EndContext<'_>, stat: &Stat) -> bool {
        if self.sessions.contains(&stat.session) || self.sessions.contains(&stat.group) {
            return true;
        }
        // A process that was forked before all roots did not inherit any of their tokens.
        if !self.tokens.values().any(|owner| owner.may_have_passed_on(stat.start_tick)) {
            return false;
        }
        let carried = context.proc.tokens(stat.pid).unwrap_or_default();
        carried.iter().filter_map(|token| self.tokens.get(token)).any(|owner| {
            owner.may_have_passed_on(stat.start_tick)
                && context.proc.uid(stat.pid).ok().flatten() == Some(owner.uid)
        })
    }
}

/// Returns the root's session, while a verified member is in it.
fn pinned_session(context: &EndContext<'_>, tree: &TreeRun) -> Option<Pid> {
    tree.root.session.filter(|session| {
        let is_in = |stat: &Stat| stat.session == session.get() || stat.group == session.get();
        tree.members.iter().any(|member| {
            let stat = context.proc.stat(member.pid()).ok().flatten();
            member.pinned.as_ref().is_some_and(Pinned::has_its_pid)
                && stat.is_some_and(|stat| {
                    stat.start_tick == member.info.identity.start_tick && is_in(&stat)
                })
        })
    })
}

fn stop_if_linked(context: &EndContext<'_>, evidence: &LiveEvidence, pid: Pid) -> Option<Pinned> {
    let began = this_tick();
    let stat = context.proc.stat(pid).ok()??;
    // A person may be using a process with a terminal, so that is left to the scan.
    if stat.is_kernel_thread() || stat.is_zombie() || stat.is_stopped() || stat.terminal != 0 {
        return None;
    }
    if !evidence.links(context, &stat) {
        return None;
    }
    let pinned = Pinned::open(context.proc, context.observer.scope, pid).ok()??;
    // The PID may have been reused since then, which the start time does not show within one tick.
    let is_linked = || evidence.links(context, &pinned.stat);
    let same = pinned.stat.start_tick == stat.start_tick
        && (stat.start_tick < began || is_linked() && pinned.has_its_pid());
    if !same {
        return None;
    }
    pinned.signal(Signal::STOP).ok()?;
    Some(pinned)
}
