//! One scan of `/proc`: which processes belong to the trees now?

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    exemptions::take_left,
    member::Member,
    state::{TokenCache, Work, World, not_ours},
    tree_outcome::Recorder,
};
use crate::{
    error::Result,
    identity::Pid,
    policy::{
        membership::{Evidence, TreeView, kin, members},
        suspects::Doubt,
    },
    sys::{
        Pinned, Signal,
        snapshot::{Snapshot, Stat},
        unless_busy,
    },
    tracker::membership::{
        evidence::pin,
        process_info::{ProcessInfo, command_of},
    },
};

/// Pause between two reads of a process that is calling exec.
const EXEC_PAUSE: Duration = Duration::from_micros(200);
/// Limit on waiting for such processes in one scan: another scan follows.
const EXEC_TAKES: Duration = Duration::from_millis(10);

/// Takes a snapshot, adds every new member to its tree and records it; returns the snapshot, and whether any member was new.
/// Fails where a process could not be read, or pinned, for lack of a descriptor; processes that were found are members
/// regardless.
pub(super) fn look(
    world: &World<'_>,
    trees: &mut [Work],
    cache: &mut TokenCache,
    recorder: &mut Recorder<'_>,
) -> Result<(Snapshot, bool)> {
    let snapshot = world.proc.snapshot()?;
    let mut carriers = carriers(world, &snapshot, trees, cache)?;
    let mut taken: HashSet<Pid> = trees.iter().flat_map(|tree| tree.pids.keys().copied()).collect();
    let (mut any, mut blind) = (false, Ok(()));
    for tree in trees {
        let carried = carriers.of.remove(&tree.root.token).unwrap_or_default();
        let others = carriers.others.remove(&tree.root.token).unwrap_or_default();
        let mut view = view(&snapshot, tree, carried);
        view.keeper = tree.find_keeper(world, &snapshot);
        tree.had_keeper |= view.keeper.is_some();
        // Listed after the snapshot: a process in both lists has held its PID all the time in between.
        let in_leaf = tree.list_leaf(world, &snapshot)?;
        view.leaf.clone_from(&in_leaf.pids);
        let is_unlisted = |pid: &&Pid| snapshot.get(**pid).is_none();
        tree.unlisted = view.leaf.iter().filter(is_unlisted).copied().collect();
        let exempt = exempt(&snapshot, world, &mut view);
        let mut found = members(&snapshot, &view, &exempt);
        tree.exempt_children(&snapshot, view.keeper, &exempt);
        for (pid, evidence, why) in
            take_left(world, &snapshot, tree, &mut found, (view.root, &exempt))
        {
            let left = leave(world, &snapshot, tree, cache, &mut taken, (pid, evidence, why));
            blind = blind.and(left);
        }
        let others = others
            .into_iter()
            .filter(|(pid, _)| !found.members.contains_key(pid) && !exempt.contains(pid));
        let others = others.map(|(pid, uid)| (pid, Doubt::OtherUser(uid)));
        let on_terminals = found.suspects.into_iter().map(|pid| (pid, Doubt::Terminal));
        let suspects = on_terminals.chain(others).filter(|(pid, _)| !taken.contains(pid));
        tree.suspects = suspects.collect();
        let first = tree.members.len();
        tree.vanished = carriers.undetermined && tree.root.token.is_some();
        for (pid, evidence) in found.members {
            if !tree.pids.contains_key(&pid) && taken.insert(pid) {
                blind = blind.and(add(world, &snapshot, tree, cache, (pid, evidence, None)));
            }
        }
        any |= tree.members.len() > first || tree.vanished;
        tree.mark_leaf(&in_leaf, &exempt);
        record(tree, first, recorder);
    }
    blind.map(|()| (snapshot, any))
}

/// Marks a member as left running, unless it has already been signalled.
fn leave(
    world: &World<'_>,
    snapshot: &Snapshot,
    tree: &mut Work,
    cache: &mut TokenCache,
    taken: &mut HashSet<Pid>,
    (pid, evidence, why): (Pid, Evidence, String),
) -> Result<()> {
    if let Some(&index) = tree.pids.get(&pid) {
        let member = &mut tree.members[index];
        if member.signalled.is_none() && member.is_alive() {
            member.kept = Some(why);
        }
    } else if taken.insert(pid) {
        return add(world, snapshot, tree, cache, (pid, evidence, Some(why)));
    }
    Ok(())
}

fn record(tree: &mut Work, first: usize, recorder: &mut Recorder<'_>) {
    let new: Vec<_> = tree.members[first..].iter().map(|member| &member.info).collect();
    if new.is_empty() {
        return;
    }
    let rows = recorder(&tree.root, &new);
    for (member, row) in tree.members[first..].iter_mut().zip(rows) {
        member.row = row;
    }
}

/// Returns what is certain about the tree in this snapshot.
fn view(snapshot: &Snapshot, tree: &Work, carriers: Vec<Pid>) -> TreeView {
    let mut view = TreeView { carriers, ..TreeView::default() };
    let mut anchored = false;
    for member in &tree.members {
        let pid = member.pid();
        let Some(stat) =
            snapshot.get(pid).filter(|stat| stat.start_tick == member.info.identity.start_tick)
        else {
            continue;
        };
        // Only a process that still holds its PID now, after the snapshot, held it while the snapshot was taken.
        if !member.pinned.as_ref().is_some_and(Pinned::has_its_pid) {
            continue;
        }
        if member.is_root {
            view.root = Some(pid);
        } else {
            view.known.push((pid, member.info.evidence));
        }
        anchored |=
            tree.root.session.is_some_and(|id| id.get() == stat.session || id.get() == stat.group);
    }
    if anchored {
        view.session = tree.root.session;
        view.group = tree.root.session;
    }
    view
}

/// Returns the acting process and its kin, and what other live instances are responsible for, unless they run below this very
/// tree.
///
/// A task cgroup, a token, or a row that an earlier pass made does not prove descent: a task that restarts its host passes both
/// to the new host, which is no longer a descendant.
fn exempt(snapshot: &Snapshot, world: &World<'_>, view: &mut TreeView) -> HashSet<Pid> {
    let mut exempt = kin(snapshot, view, world.own);
    if world.guards.is_empty() && view.keeper.is_none() {
        return exempt;
    }
    let provisional = members(snapshot, &view.certain(), &exempt).members;
    let instances = world.guards.iter().map(|(instance, _)| *instance).chain([world.own]);
    view.trust_keeper(snapshot, &provisional, instances);
    let outside = world.guards.iter().filter(|(instance, _)| !provisional.contains_key(instance));
    for pid in outside.flat_map(|(instance, theirs)| theirs.iter().chain([instance])) {
        exempt.insert(*pid);
        // An instance that a task of this tree has started has passed its cgroup and token on to what it starts itself, whether
        // or not that is known. For any other instance, being below it proves nothing: it may be the subreaper of all processes
        // (or PID 1).
        if view.leaf.contains(pid) || view.carriers.contains(pid) {
            exempt.extend(snapshot.below(*pid));
        }
    }
    exempt
}

#[derive(Default)]
struct Carriers {
    of: HashMap<Option<Uuid>, Vec<Pid>>,
    /// Processes with a token of ours and another uid, with that uid.
    others: HashMap<Option<Uuid>, Vec<(Pid, u32)>>,
    /// A process kept calling exec, so that its tokens are unknown.
    undetermined: bool,
}

/// Reads the environments of processes that are in no tree yet, where some tree has a token.
fn carriers(
    world: &World<'_>,
    snapshot: &Snapshot,
    trees: &[Work],
    cache: &mut TokenCache,
) -> Result<Carriers> {
    let wanted: HashMap<Uuid, u32> =
        trees.iter().filter_map(|tree| Some((tree.root.token?, tree.root.uid))).collect();
    let mut found = Carriers::default();
    if wanted.is_empty() {
        return Ok(found);
    }
    let known: HashSet<Pid> = trees.iter().flat_map(|tree| tree.pids.keys().copied()).collect();
    // A process that was forked before all of the roots cannot have inherited any of their tokens.
    let with_token = trees.iter().filter(|tree| tree.root.token.is_some());
    let oldest = with_token.map(|tree| tree.root.identity.start_tick).min().unwrap_or(0);
    let patience = Instant::now() + EXEC_TAKES;
    let unknown = |stat: &&Stat| !stat.is_kernel_thread() && !known.contains(&stat.pid);
    for stat in snapshot.iter().filter(unknown).filter(|stat| stat.start_tick >= oldest) {
        let key = (stat.pid, stat.start_tick);
        let tokens = match cache.0.get(&key) {
            Some(tokens) => Some(tokens.clone()),
            None => tokens(world, stat.pid, patience)?,
        };
        found.undetermined |= tokens.is_none();
        let tokens = tokens.unwrap_or_default();
        for token in &tokens {
            let Some(&uid) = wanted.get(token) else { continue };
            match unless_busy(world.proc.uid(stat.pid))? {
                Some(theirs) if theirs == uid => {
                    found.of.entry(Some(*token)).or_default().push(stat.pid);
                }
                Some(theirs) => {
                    found.others.entry(Some(*token)).or_default().push((stat.pid, theirs));
                }
                None => {}
            }
        }
        if !tokens.is_empty() {
            cache.0.insert(key, tokens);
        }
    }
    Ok(found)
}

/// Returns the tokens that a process carries. A process that has left the session and is calling exec shows none for a moment:
/// of 120 daemons that a short-lived root left, one to nine were missed. `None` for a process that is still calling it when
/// `patience` is over.
fn tokens(world: &World<'_>, pid: Pid, patience: Instant) -> Result<Option<Vec<Uuid>>> {
    loop {
        if let Some(tokens) = world.proc.tokens_shown(pid)? {
            return Ok(Some(tokens));
        }
        if !world.proc.is_in_exec(pid) {
            // It may have completed exec between the two reads.
            return Ok(Some(world.proc.tokens_shown(pid)?.unwrap_or_default()));
        }
        if Instant::now() >= patience {
            return Ok(None);
        }
        std::thread::sleep(EXEC_PAUSE);
    }
}

/// Pins a process that the snapshot shows as a member, if it is still the process that the snapshot saw.
fn add(
    world: &World<'_>,
    snapshot: &Snapshot,
    tree: &mut Work,
    cache: &mut TokenCache,
    (pid, evidence, kept): (Pid, Evidence, Option<String>),
) -> Result<()> {
    let Some(seen) = snapshot.get(pid) else { return Ok(()) };
    // Any other error leaves it out of this round; the next scan finds it again.
    let holds = |pid: Pid| {
        let member = tree.pids.get(&pid).and_then(|&index| tree.members[index].pinned.as_ref());
        member.is_some_and(Pinned::has_its_pid)
    };
    let place = world.observer.place;
    let pinned = pin(world.proc, place, snapshot, seen, &tree.root, evidence, holds)?;
    let Some(pinned) = pinned.filter(|pinned| !pinned.is_dead().unwrap_or(true)) else {
        // The tokens of the former process say nothing about a process that may have its PID now.
        cache.0.remove(&(pid, seen.start_tick));
        // It may have started another process first, which this scan did not see.
        tree.vanished |= !seen.is_zombie();
        return Ok(());
    };
    let mut info = ProcessInfo::observed(world.proc, &pinned, &tree.root, evidence);
    info.command = command_of(world.proc, pid, tree.root.arguments);
    let mut member = Member::new(info, Some(pinned));
    if !world.may_try(pid) {
        // It belongs to the tree for certain, so it is reported as a survivor.
        member.refused = Some(not_ours(pid));
    }
    member.kept = kept;
    if tree.expired {
        // Stopped before it is recorded: the next fork comes sooner than a commit. A process that turns out not to be a member
        // gets SIGCONT.
        member.signal(Signal::STOP);
    }
    tree.push(member);
    Ok(())
}
