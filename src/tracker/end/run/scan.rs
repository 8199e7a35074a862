//! Scans `/proc`, and determines the processes that belong to the trees now.

use std::{
    cell::LazyCell,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    exemptions::protected,
    member::Member,
    state::{EndContext, TokenCache, TreeRun, not_ours},
    tree_outcome::Recorder,
};
use crate::{
    error::{Error, Result},
    identity::Pid,
    model::{Evidence, SpareReason},
    policy::{
        exemption::System,
        membership::{Known, Membership, Spared, TreeFacts, decide, descendants},
        suspects::SuspectReason,
        token_holders::{TokenHolders, TokenOwner, TokenReader, token_holders},
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
/// Limit on waiting for such processes in one scan, which is followed by another one.
const EXEC_TAKES: Duration = Duration::from_millis(10);

/// Adds every new member that a snapshot shows to its tree and records it; returns the snapshot,
/// and whether any member was new. Fails if a process could not be read, or pinned for lack of a
/// descriptor; the processes that were found become members regardless.
pub(super) fn scan(
    context: &EndContext<'_>,
    snapshot: Snapshot,
    trees: &mut [TreeRun],
    cache: &mut TokenCache,
    recorder: &mut Recorder<'_>,
) -> Result<(Snapshot, bool)> {
    let (mut holders, undetermined) = token_holders_of(context, &snapshot, trees, cache)?;
    let system = System::new(&snapshot, Some(context.own), &context.foreign);
    let mut taken: HashSet<Pid> = trees.iter().flat_map(|tree| tree.pids.keys().copied()).collect();
    let (mut any, mut pinned_all) = (false, Ok(()));
    for tree in trees {
        let mut facts = facts(context, &snapshot, tree, &mut holders);
        // Listed after the snapshot, so that a PID in both is the same process in both.
        let in_task_cgroup = tree.list_task_cgroup(context, &snapshot)?;
        facts.task_cgroup.clone_from(&in_task_cgroup.pids);
        let is_unlisted = |pid: &&Pid| snapshot.get(**pid).is_none();
        tree.unlisted = in_task_cgroup.pids.iter().filter(is_unlisted).copied().collect();
        let mut found = decide_tree(context, &system, tree, &facts);
        tree.exempt_children(&snapshot, found.keeper, &found.exempt);
        tree.exempt_before.extend(found.exempt.found());
        tree.left_before |= found.leaves_some_from_before();
        found.without(|pid| taken.contains(&pid) && !tree.pids.contains_key(&pid));
        tree.vanished = undetermined && tree.root.token.is_some();
        let session = found.session;
        let descendants = LazyCell::new(|| descendants(&system, &facts, session));
        for (pid, spared) in found.spared {
            if spared.why != SpareReason::LeftBefore && !tree.spare(pid, &spared.why) {
                taken.insert(pid);
                let descends = descendants.contains(&pid);
                let new = (pid, spared.evidence, descends, Some(spared));
                pinned_all = pinned_all.and(add(context, &snapshot, tree, cache, new));
            }
        }
        // Processes that are left running are recorded only with the end.
        let first = tree.members.len();
        for (pid, evidence) in found.members {
            if !tree.knows(pid, evidence) {
                taken.insert(pid);
                let new = (pid, evidence, descendants.contains(&pid), None);
                pinned_all = pinned_all.and(add(context, &snapshot, tree, cache, new));
            }
        }
        tree.suspects = found.suspects;
        any |= tree.members.len() > first || tree.vanished;
        tree.mark_task_cgroup(&in_task_cgroup, &found.exempt);
        record(tree, first, recorder);
    }
    pinned_all.map(|()| (snapshot, any))
}

/// Decides which processes belong to one of the trees, with the names that are protected in it.
fn decide_tree<'a>(
    context: &EndContext<'_>,
    system: &'a System<'_>,
    tree: &mut TreeRun,
    facts: &TreeFacts,
) -> Membership<'a> {
    let names = [context.protected, &tree.exemptions.names];
    if names.iter().all(|names| names.is_empty()) {
        return decide(system, facts, None);
    }
    // Decided once for each process, so that one that was sent SIGTERM does not become exempt when
    // it runs another program.
    let judged = &mut tree.judged;
    let mut protects = |stat: &Stat| {
        let known = judged.entry((stat.pid, stat.start_tick));
        known.or_insert_with(|| protected(context.proc, stat.pid, &names)).clone()
    };
    decide(system, facts, Some(&mut protects))
}

impl TreeRun {
    /// Returns the root's token, if it has one, with the data that determines which processes may
    /// have inherited it.
    pub(super) fn token_owner(&self) -> Option<(Uuid, TokenOwner)> {
        let (uid, start_tick) = (self.root.uid, self.root.identity.start_tick);
        Some((self.root.token?, TokenOwner { uid, start_tick }))
    }

    /// Marks a known member as left running, unless it has been signalled or is dead; returns
    /// whether it is known.
    fn spare(&mut self, pid: Pid, why: &SpareReason) -> bool {
        let Some(&index) = self.pids.get(&pid) else { return false };
        self.members[index].spare(why);
        true
    }

    /// Returns whether a member is known. Current evidence replaces evidence that was only
    /// recorded.
    fn knows(&mut self, pid: Pid, evidence: Evidence) -> bool {
        let Some(&index) = self.pids.get(&pid) else { return false };
        let member = &mut self.members[index];
        if member.info.evidence == Evidence::Recorded {
            member.info.evidence = evidence;
        }
        true
    }
}

fn record(tree: &mut TreeRun, first: usize, recorder: &mut Recorder<'_>) {
    let has_none = |member: &&Member| member.row.is_none();
    let new: Vec<_> =
        tree.members[first..].iter().filter(has_none).map(|member| &member.info).collect();
    if new.is_empty() {
        return;
    }
    let rows = recorder(&tree.root, &new);
    for member in tree.members[first..].iter_mut().filter(|member| member.row.is_none()) {
        member.row = rows.get(&member.info.identity).copied();
    }
}

/// Returns the facts of a tree in this snapshot, except for its task cgroup.
fn facts(
    context: &EndContext<'_>,
    snapshot: &Snapshot,
    tree: &mut TreeRun,
    holders: &mut TokenHolders,
) -> TreeFacts {
    let token = tree.root.token;
    let on_terminal =
        tree.suspects.iter().filter(|(_, reason)| **reason == SuspectReason::Terminal);
    let on_terminal_before = on_terminal.map(|(&pid, _)| pid).collect();
    let mut facts = TreeFacts {
        may_spare_root: !tree.has_true_root(),
        session: tree.root.session,
        keeper: tree.find_keeper(context, snapshot),
        token_holders: token.and_then(|it| holders.of_user.remove(&it)).unwrap_or_default(),
        other_holders: token.and_then(|it| holders.of_others.remove(&it)).unwrap_or_default(),
        left_before: tree.exemptions.before.iter().map(|it| (it.pid, it.start_tick)).collect(),
        keeps_strays: tree.exemptions.all,
        exempt_before: tree.exempt_before.clone(),
        on_terminal_before,
        ..TreeFacts::default()
    };
    tree.had_keeper |= facts.keeper.is_some();
    for member in &tree.members {
        let pid = member.pid();
        // Only a process that still has its PID now, after the snapshot, certainly had it while the
        // snapshot was taken.
        let is_it = |stat: &Stat| stat.start_tick == member.info.identity.start_tick;
        if !snapshot.get(pid).is_some_and(is_it)
            || !member.pinned.as_ref().is_some_and(Pinned::has_its_pid)
        {
            continue;
        }
        if let Some(why) = member.spared() {
            facts.spared_before.insert(pid, why.clone());
        }
        if member.is_root {
            facts.root = Some(pid);
        } else if !member.is_suspect {
            facts.known.push(Known {
                pid,
                evidence: member.info.evidence,
                descends: member.descends,
                signalled: member.was_signalled(),
            });
        }
    }
    facts
}

/// Reads the environments of processes that are in no tree yet, if some tree has a token. Also
/// returns whether a process kept calling exec, so that its tokens are unknown.
fn token_holders_of(
    context: &EndContext<'_>,
    snapshot: &Snapshot,
    trees: &[TreeRun],
    cache: &mut TokenCache,
) -> Result<(TokenHolders, bool)> {
    let owners: HashMap<Uuid, TokenOwner> = trees.iter().filter_map(TreeRun::token_owner).collect();
    let known: HashSet<Pid> = trees.iter().flat_map(|tree| tree.pids.keys().copied()).collect();
    let patience = Instant::now() + EXEC_TAKES;
    let mut reader = CachedReader { context, cache, patience, undetermined: false };
    let found = token_holders(snapshot, &owners, |stat| known.contains(&stat.pid), &mut reader)?;
    Ok((found, reader.undetermined))
}

/// Reads the tokens of each process once in a call, except for processes that show none.
struct CachedReader<'a, 'w> {
    context: &'a EndContext<'w>,
    cache: &'a mut TokenCache,
    patience: Instant,
    /// Whether a process kept calling exec, so that its tokens are unknown.
    undetermined: bool,
}

impl TokenReader for CachedReader<'_, '_> {
    type Error = Error;

    fn tokens(&mut self, stat: &Stat) -> Result<Vec<Uuid>> {
        let key = (stat.pid, stat.start_tick);
        if let Some(tokens) = self.cache.0.get(&key) {
            return Ok(tokens.clone());
        }
        let tokens = tokens(self.context, stat.pid, self.patience)?;
        self.undetermined |= tokens.is_none();
        let tokens = tokens.unwrap_or_default();
        if !tokens.is_empty() {
            self.cache.0.insert(key, tokens.clone());
        }
        Ok(tokens)
    }

    fn uid(&mut self, pid: Pid) -> Result<Option<u32>> {
        unless_busy(self.context.proc.uid(pid))
    }
}

/// Returns the tokens that a process carries. Returns `None` for a process that is still calling
/// exec when `patience` is over: it shows no tokens for a moment, so that without waiting one to
/// nine of 120 daemons that a short-lived root left were missed.
fn tokens(context: &EndContext<'_>, pid: Pid, patience: Instant) -> Result<Option<Vec<Uuid>>> {
    loop {
        if let Some(tokens) = context.proc.tokens_shown(pid)? {
            return Ok(Some(tokens));
        }
        if !context.proc.is_in_exec(pid) {
            // The exec may have completed between the two reads.
            return Ok(Some(context.proc.tokens_shown(pid)?.unwrap_or_default()));
        }
        if Instant::now() >= patience {
            return Ok(None);
        }
        std::thread::sleep(EXEC_PAUSE);
    }
}

/// Pins a process that the snapshot shows as a member, if it is still the process that the snapshot
/// saw.
fn add(
    context: &EndContext<'_>,
    snapshot: &Snapshot,
    tree: &mut TreeRun,
    cache: &mut TokenCache,
    (pid, evidence, descends, spared): (Pid, Evidence, bool, Option<Spared>),
) -> Result<()> {
    let Some(seen) = snapshot.get(pid) else { return Ok(()) };
    // On any other error it is left out of this round; the next scan finds it again.
    let holds = |pid: Pid| {
        let member = tree.pids.get(&pid).and_then(|&index| tree.members[index].pinned.as_ref());
        member.is_some_and(Pinned::has_its_pid)
    };
    let scope = context.observer.scope;
    let pinned = pin(context.proc, scope, snapshot, seen, &tree.root, evidence, holds)?;
    let Some(pinned) = pinned.filter(|pinned| !pinned.is_dead().unwrap_or(true)) else {
        // The PID may belong to another process now, with other tokens.
        cache.0.remove(&(pid, seen.start_tick));
        // It may have started another process that this scan did not see.
        tree.vanished |= !seen.is_zombie();
        return Ok(());
    };
    let mut info = ProcessInfo::observed(context.proc, &pinned, &tree.root, evidence);
    info.command = command_of(context.proc, pid, tree.root.arguments);
    let mut member = Member::new(info, Some(pinned));
    member.row = tree.take_row_of(&member.info.identity);
    if !context.may_try(pid) {
        // It certainly belongs to the tree, so it is reported as a survivor.
        member.refuse(not_ours(pid));
    }
    member.is_suspect = spared.as_ref().is_some_and(|spared| !spared.is_member);
    if let Some(spared) = &spared {
        member.spare(&spared.why);
    }
    member.descends = descends;
    if tree.stage.is_killing() {
        // It is stopped before it is recorded, since it may fork faster than a commit takes. A
        // process that turns out not to be a member gets SIGCONT.
        member.signal(Signal::STOP);
    }
    tree.push(member);
    Ok(())
}
