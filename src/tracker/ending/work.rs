//! What is to be ended, and how far it has come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    super::entry::Root,
    answer::{Found, MemberEnd, TreeEnd},
    leaf::open_leaf,
    leave::Leave,
    obstacle::obstacle,
};
use crate::{
    error::{Error, Kind},
    identity::{Identity, Pid},
    os::{
        PidFd, Pinned, Probe, Proc, Signal,
        cgroup::Leaf,
        procfs::{age, cpu_time},
    },
    plan::{members::Evidence, observe::Snapshot},
    record::{ExitStatus, Observer, Origin, Outcome, ProcessId, mask_command},
};

/// After a kill another look; only what a member of uninterruptible sleep starts later needs more than one. Each tree has its
/// own rounds: a fork storm must not use up another one's.
const KILL_ROUNDS: u32 = 10;

/// Whom a call acts for, and whom it must leave alone.
pub(in super::super) struct World<'a> {
    pub(in super::super) proc: &'a Proc,
    pub(in super::super) observer: Observer,
    pub(in super::super) own: Pid,
    /// The ancestors of that one.
    pub(in super::super) ancestors: Vec<Pid>,
    /// What other live instances answer for: each instance with its processes.
    pub(in super::super) guards: Vec<(Pid, Vec<Pid>)>,
    /// Names of programs that are left alone, with what is below them, in every tree.
    pub(in super::super) protected: &'a [String],
}

impl World<'_> {
    /// Whether a process of `uid` may be signalled. Where root acts for a user, a row may name anybody, and that user could
    /// not signal it; where nobody has root's power, the kernel decides: it knows more than one uid of a process.
    pub(super) fn may_try(&self, uid: u32) -> bool {
        self.observer.may_touch(uid) || !rustix::process::geteuid().is_root()
    }
}

pub(super) fn not_ours(pid: Pid) -> Error {
    Error::new(Kind::Denied, format!("process {pid} is not of the ledger's user"))
}

/// A tree that shall be ended.
#[derive(Clone, Debug)]
pub(in super::super) struct Tree {
    pub(in super::super) root: Root,
    /// A pidfd that is held already; it belongs to the root for certain.
    pub(in super::super) pidfd: Option<Arc<PidFd>>,
    /// Descendants that earlier passes recorded.
    pub(in super::super) recorded: Vec<(ProcessId, Identity)>,
    pub(in super::super) leave: Leave,
}

/// A pinned process that belongs to a tree.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one process")]
pub(super) struct Member {
    pub(super) row: Option<ProcessId>,
    pub(super) is_root: bool,
    pub(super) identity: Identity,
    pub(super) evidence: Evidence,
    pub(super) command: Vec<String>,
    pub(super) rss: u64,
    pub(super) cpu: Duration,
    pub(super) age: Duration,
    pub(super) uid: u32,
    /// `cgroup.kill` of the tree's leaf reaches it, whatever uid it has.
    pub(super) in_leaf: bool,
    /// `None` where it was gone before it could be pinned.
    pub(super) pinned: Option<Pinned>,
    pub(super) dead: bool,
    pub(super) signalled: Option<Instant>,
    pub(super) killed: bool,
    pub(super) died_after: Option<Duration>,
    pub(super) refused: Option<Error>,
    /// The rule by which it is left alone.
    pub(super) kept: Option<String>,
}

impl Member {
    pub(super) fn found(&self) -> Found<'_> {
        Found {
            identity: self.identity,
            command: &self.command,
            evidence: self.evidence,
            rss: self.rss,
            cpu: self.cpu,
            age: self.age,
            uid: self.uid,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.dead
    }

    /// Alive, not left on purpose, and no signal was refused, or none is needed.
    pub(super) fn can_be_ended(&self) -> bool {
        !self.dead && self.kept.is_none() && (self.refused.is_none() || self.in_leaf)
    }

    /// The kernel was told to kill it with its leaf.
    pub(super) fn mark_killed(&mut self) {
        self.signalled.get_or_insert_with(Instant::now);
        self.killed = true;
        self.refused = None;
    }

    pub(super) fn mark_dead(&mut self) {
        self.dead = true;
        self.died_after = self.signalled.map(|at| at.elapsed());
    }

    /// Looks whether it has died.
    pub(super) fn look(&mut self) -> bool {
        let newly = !self.dead
            && self.pinned.as_ref().is_none_or(|pinned| pinned.is_dead().unwrap_or(false));
        if newly {
            self.mark_dead();
        }
        newly
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        let open = self.can_be_ended();
        let Some(pinned) = self.pinned.as_ref().filter(|_| open) else { return };
        match pinned.signal(signal) {
            Ok(()) => {
                self.signalled.get_or_insert_with(Instant::now);
                self.killed |= signal == Signal::KILL;
            }
            Err(error) if error.is_gone() => self.mark_dead(),
            Err(error) => self.refused = Some(error),
        }
    }
}

/// A tree on its way.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one tree")]
pub(super) struct Work {
    pub(super) root: Root,
    pub(super) members: Vec<Member>,
    pub(super) pids: HashMap<Pid, usize>,
    pub(super) suspects: HashSet<Pid>,
    /// The root's leaf, where it has one and it is the recorded one.
    pub(super) leaf: Option<Leaf>,
    /// Somebody is in the leaf who must be left alone: its members are ended one by one (invariant 13).
    pub(super) leaf_is_shared: bool,
    pub(super) unknown: Vec<(ProcessId, Error)>,
    /// The last look saw a member that was gone before it could be pinned.
    pub(super) vanished: bool,
    /// Its grace is over.
    pub(super) expired: bool,
    /// How often it was frozen and killed.
    pub(super) kills: u32,
    pub(super) leave: Leave,
    /// Programs that were matched against protected names: the answer for each.
    pub(super) judged: HashMap<(Pid, u64), Option<String>>,
    /// Something is there that was left before.
    pub(super) left_before: bool,
}

impl Work {
    /// Pins the root and the recorded descendants.
    pub(super) fn new(world: &World<'_>, tree: Tree) -> Self {
        let Tree { root, pidfd, recorded, leave } = tree;
        let mut work = Self {
            leaf: open_leaf(world, &root),
            leaf_is_shared: false,
            root,
            members: Vec::new(),
            pids: HashMap::new(),
            suspects: HashSet::new(),
            unknown: Vec::new(),
            vanished: false,
            expired: false,
            kills: 0,
            leave,
            judged: HashMap::new(),
            left_before: false,
        };
        let (row, identity) = (work.root.row, work.root.identity);
        let probe = match pidfd {
            Some(fd) => Pinned::verify(world.proc, world.observer.place, &identity, fd)
                .unwrap_or_else(Probe::Unknown),
            None => Pinned::probe(world.proc, world.observer.place, &identity),
        };
        work.add_recorded(world, row, identity, Evidence::Root, probe);
        for (row, identity) in recorded {
            let probe = Pinned::probe(world.proc, world.observer.place, &identity);
            work.add_recorded(world, row, identity, Evidence::Recorded, probe);
        }
        work
    }

    fn add_recorded(
        &mut self,
        world: &World<'_>,
        row: ProcessId,
        identity: Identity,
        evidence: Evidence,
        probe: Probe,
    ) {
        let (pinned, dead) = match probe {
            Probe::Alive(pinned) => {
                if let Some(why) = spared(world, pinned.pid(), {
                    // A recorded descendant that stands alone is no more certain than below its root.
                    evidence == Evidence::Recorded || self.root.origin == Origin::Descendant
                }) {
                    self.unknown.push((row, why));
                    return;
                }
                (Some(pinned), false)
            }
            Probe::Zombie(pinned) => (Some(pinned), true),
            Probe::Gone => (None, true),
            Probe::Unknown(error) => {
                self.unknown.push((row, error));
                return;
            }
        };
        let mut member = describe(world, identity, evidence, pinned, self.root.arguments);
        member.row = Some(row);
        member.is_root = evidence == Evidence::Root;
        member.dead = dead;
        if !dead && !world.may_try(member.uid) {
            member.refused = Some(not_ours(member.identity.pid));
        }
        if member.is_root && member.command.is_empty() {
            member.command.clone_from(&self.root.command);
        }
        self.push(member);
    }

    pub(super) fn push(&mut self, member: Member) {
        if member.is_alive() || member.pinned.is_some() {
            self.pids.insert(member.identity.pid, self.members.len());
        }
        self.members.push(member);
    }

    /// Somebody is left who may still end.
    pub(super) fn is_pending(&self) -> bool {
        self.members.iter().any(Member::can_be_ended)
    }

    /// Its grace is over, somebody was not killed yet, and there are rounds left to do it.
    pub(super) fn must_be_killed(&self) -> bool {
        self.expired && self.kills < KILL_ROUNDS && self.has_unkilled()
    }

    fn has_unkilled(&self) -> bool {
        self.members.iter().any(|member| member.can_be_ended() && !member.killed)
    }

    /// There is something left to do for it: to ask, to wait or to kill.
    pub(super) fn goes_on(&self) -> bool {
        if self.expired { self.must_be_killed() } else { self.is_pending() }
    }

    /// Those that live and are not left on purpose.
    pub(super) fn alive(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut().filter(|member| member.is_alive() && member.kept.is_none())
    }

    /// What became of it. `unseen`: why the last look failed, so that nobody knows whether these were all.
    pub(super) fn finish(
        self,
        world: &World<'_>,
        snapshot: &Snapshot,
        unseen: Option<&str>,
    ) -> TreeEnd {
        let unseen = match unseen {
            Some(why) => Some(format!("what it left could not be looked for: {why}")),
            None if self.has_unkilled() || self.vanished => {
                Some("its tree starts new processes faster than they can be ended".into())
            }
            None => None,
        };
        let members = (self.members.into_iter())
            .map(|member| conclude(world.proc, member, snapshot))
            .collect();
        let suspects = self
            .suspects
            .into_iter()
            .map(|pid| (pid, command_of(world.proc, pid, self.root.arguments)))
            .collect();
        TreeEnd { root: self.root, members, suspects, unknown: self.unknown, unseen }
    }
}

/// Why a recorded process is left alone, whatever its row says: the acting process and its ancestors, by any rule
/// (invariant 13); and, where a row of an earlier pass is all that ties it to the root, what another live instance is or
/// answers for (invariant 7). A look finds the latter again if it really runs below the root.
fn spared(world: &World<'_>, pid: Pid, recorded: bool) -> Option<Error> {
    let left = |what: &str| {
        Some(Error::new(Kind::Unknown, format!("process {pid} is {what}: it is left alone")))
    };
    if pid == world.own || world.ancestors.contains(&pid) {
        return left("the one that acts, or an ancestor of it");
    }
    let guarded = |(instance, theirs): &(Pid, Vec<Pid>)| *instance == pid || theirs.contains(&pid);
    if recorded && world.guards.iter().any(guarded) {
        return left("another live instance, or that one's");
    }
    None
}

/// A member with what `/proc` tells of it.
pub(super) fn describe(
    world: &World<'_>,
    identity: Identity,
    evidence: Evidence,
    pinned: Option<Pinned>,
    arguments: bool,
) -> Member {
    let stat = pinned.as_ref().map(|pinned| &pinned.stat);
    Member {
        row: None,
        is_root: false,
        identity,
        evidence,
        command: pinned
            .as_ref()
            .map_or_else(Vec::new, |pinned| command_of(world.proc, pinned.pid(), arguments)),
        rss: stat.map_or(0, |stat| stat.rss_bytes),
        cpu: stat.map_or(Duration::ZERO, cpu_time),
        age: stat.map_or(Duration::ZERO, |stat| age(stat.start_tick)),
        uid: pinned
            .as_ref()
            .and_then(|pinned| world.proc.uid(pinned.pid()).ok().flatten())
            .unwrap_or(u32::MAX),
        in_leaf: false,
        pinned,
        dead: false,
        signalled: None,
        killed: false,
        died_after: None,
        refused: None,
        kept: None,
    }
}

/// The program, and its arguments where they may be recorded, with secrets masked; a zombie or a kernel thread has none.
pub(in super::super) fn command_of(proc: &Proc, pid: Pid, arguments: bool) -> Vec<String> {
    let command = proc.command(pid).ok().flatten().unwrap_or_default();
    let recorded = if arguments { command.len() } else { 1 };
    let text = |argument: &Vec<u8>| String::from_utf8_lossy(argument).into_owned();
    mask_command(&command.iter().take(recorded).map(text).collect::<Vec<_>>())
}

fn conclude(proc: &Proc, mut member: Member, snapshot: &Snapshot) -> MemberEnd {
    if member.kept.is_some() {
        member.look();
    }
    let outcome = match (member.dead, member.signalled.is_some(), member.killed) {
        (false, _, _) if member.kept.is_some() => Outcome::Kept,
        (false, _, _) => Outcome::Survived,
        (true, false, _) => Outcome::Gone,
        (true, true, false) => Outcome::Term,
        (true, true, true) => Outcome::Kill,
    };
    let obstacle = (outcome == Outcome::Survived).then(|| obstacle(proc, &member, snapshot));
    let fd: Option<&PidFd> = member.pinned.as_ref().map(Pinned::fd);
    MemberEnd {
        row: member.row,
        is_root: member.is_root,
        identity: member.identity,
        evidence: member.evidence,
        rss: member.rss,
        cpu: member.cpu,
        age: member.age,
        outcome,
        status: fd.and_then(PidFd::exit_info).unwrap_or(ExitStatus::Unobserved),
        died_after: member.died_after,
        obstacle,
        command: member.command,
        uid: member.uid,
        kept: member.kept,
        killed: member.killed,
    }
}

/// Tokens that were read in this call; an empty answer is not kept, since a process in exec shows no environment.
#[derive(Debug, Default)]
pub(super) struct TokenCache(pub(super) HashMap<(Pid, u64), Vec<Uuid>>);
