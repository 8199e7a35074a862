//! The trees that are to be ended, and the state of each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use uuid::Uuid;

use super::{
    end_plan::{Stage, Step, steps},
    member::{Death, Member, Phase},
    tree_outcome::{LeftRunning, Suspected, TreeOutcome},
};
use crate::{
    error::{Error, Kind},
    identity::{Identity, Pid, Sameness},
    model::{Evidence, Named, Observer, Origin, ProcessId},
    policy::{exemption::Foreign, suspects::SuspectReason},
    sys::{PidFd, Pinned, Probe, Proc, cgroup::TaskCgroup, snapshot::Snapshot},
    tracker::{
        membership::process_info::{ProcessInfo, command_of},
        runtime::tracked::Root,
    },
};

/// The context of an end: the instance it acts for, and which processes it must not signal.
#[derive(Clone)]
pub(in crate::tracker) struct EndContext<'a> {
    pub(in crate::tracker) proc: &'a Proc,
    pub(in crate::tracker) observer: Observer,
    pub(in crate::tracker) own: Pid,
    /// The ancestors of the acting process.
    pub(in crate::tracker) ancestors: Vec<Pid>,
    pub(in crate::tracker) foreign: Vec<Foreign>,
    /// Names of programs that are left running, with their descendants, in every tree.
    pub(in crate::tracker) protected: &'a [String],
}

impl EndContext<'_> {
    /// Returns the processes that no end may touch: the acting process and its ancestors, other
    /// instances, and the processes that these are responsible for.
    pub(super) fn untouchable(&self) -> impl Iterator<Item = Pid> + '_ {
        self.ancestors.iter().copied().chain([self.own]).chain(self.foreign_processes())
    }

    pub(super) fn foreign_processes(&self) -> impl Iterator<Item = Pid> + '_ {
        self.foreign.iter().flat_map(|it| it.processes.iter().copied().chain([it.instance]))
    }

    /// Returns whether signalling a process may be attempted. If root acts for a user, a row may
    /// name any process, so only a process that belongs to that user in every respect, and that the
    /// user could signal as well, is signalled. If the caller does not have root's privileges, the
    /// kernel decides.
    pub(super) fn may_try(&self, pid: Pid) -> bool {
        let is_users = || {
            let status = self.proc.status(pid).ok().flatten();
            status.and_then(|status| status.only_uid()) == Some(self.observer.uid)
        };
        self.observer.uid == 0 || !rustix::process::geteuid().is_root() || is_users()
    }
}

pub(super) fn not_ours(pid: Pid) -> Error {
    Error::new(Kind::Denied, format!("process {pid} does not belong to the ledger's user"))
}

/// The processes of a tree that are left running on purpose, besides those whose names the context
/// protects.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct Exemptions {
    /// Whether everything except the root is left, because its job keeps its strays.
    pub(in crate::tracker) all: bool,
    /// Names of programs that the job protects.
    pub(in crate::tracker) names: Arc<[String]>,
    /// Processes of this tree that were left before: they have their own rows, and no instance is
    /// responsible for them.
    pub(in crate::tracker) before: Vec<Identity>,
}

/// A tree that is to be ended.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct TreeTarget {
    pub(in crate::tracker) root: Root,
    /// A pidfd of the root that is already held.
    pub(in crate::tracker) pidfd: Option<Arc<PidFd>>,
    /// Descendants that were found before, with their rows; `None` for a row that could not be
    /// written.
    pub(in crate::tracker) recorded: Vec<(Option<ProcessId>, Identity)>,
    pub(in crate::tracker) exemptions: Exemptions,
}

/// A tree that is being ended.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one tree")]
pub(super) struct TreeRun {
    pub(super) root: Root,
    pub(super) members: Vec<Member>,
    pub(super) pids: HashMap<Pid, usize>,
    pub(super) suspects: BTreeMap<Pid, SuspectReason>,
    /// Whether the root existed when its end began, alive or as a zombie.
    pub(super) was_there: bool,
    /// Whether its pidfd was already held, so that it belongs to the acting instance.
    pub(super) is_held: bool,
    /// Whether a keeper of the tree was seen.
    pub(super) had_keeper: bool,
    /// The v2 cgroup of the root, if it belongs to another instance.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) ancestors: Vec<Pid>,
    /// The root's task cgroup, if it has one and it is the recorded one.
    pub(super) task_cgroup: Option<TaskCgroup>,
    /// Why the task cgroup could not be opened.
    pub(super) task_cgroup_error: Option<String>,
    /// Whether a scan has shown which processes are in it.
    pub(super) task_cgroup_is_known: bool,
    /// Whether the last scan could not list all of it, or could not determine for some process
    /// whether it is in it.
    pub(super) task_cgroup_has_gaps: bool,
    /// Whether a part of it cannot be read for lack of permission.
    pub(super) task_cgroup_is_closed: bool,
    /// How often it was killed because of processes in it that cannot be seen.
    pub(super) unseen_kills: u32,
    /// Whether the task cgroup contains a process that must be left running, so that its members
    /// are ended one by one (invariant 13).
    pub(super) task_cgroup_is_shared: bool,
    pub(super) unknown: Vec<LeftRunning>,
    /// PIDs that were in its task cgroup after the last snapshot was taken, but are not in that
    /// snapshot.
    pub(super) unlisted: Vec<Pid>,
    /// Whether the last scan found a member that was gone before it could be pinned.
    pub(super) vanished: bool,
    /// The steps by which it is asked to end.
    pub(super) steps: Vec<Step>,
    pub(super) stage: Stage,
    /// Since when nothing is left to do for it, while scans have not shown yet that these were all
    /// members.
    pub(super) closing: Option<Instant>,
    pub(super) exemptions: Exemptions,
    /// The keeper of the tree, while it is alive.
    pub(super) keeper: Option<Pinned>,
    /// Processes that scans have exempted.
    pub(super) exempt_before: HashSet<Pid>,
    /// Children of the keeper that the last scan exempted, since they belong to another task or
    /// instance.
    pub(super) exempted: HashSet<Pid>,
    /// Programs that were matched against protected names, with the result for each.
    pub(super) judged: HashMap<(Pid, u64), Option<Named>>,
    /// Whether a process exists that was left before.
    pub(super) left_before: bool,
}

impl TreeRun {
    /// Pins the root and the recorded descendants.
    pub(super) fn new(context: &EndContext<'_>, tree: TreeTarget) -> Self {
        Self::seen(context, tree, None)
    }

    /// Does the same, but a root whose pidfd is held is not read again if the snapshot shows it.
    pub(super) fn seen(
        context: &EndContext<'_>,
        tree: TreeTarget,
        snapshot: Option<&Snapshot>,
    ) -> Self {
        let TreeTarget { root, pidfd, recorded, exemptions } = tree;
        let (task_cgroup, task_cgroup_error) = open_task_cgroup(context, &root);
        let mut tree = Self {
            task_cgroup,
            task_cgroup_error,
            task_cgroup_is_known: false,
            task_cgroup_has_gaps: false,
            task_cgroup_is_closed: false,
            unseen_kills: 0,
            task_cgroup_is_shared: false,
            steps: steps(&root.end_plan, root.limits.grace),
            root,
            members: Vec::new(),
            pids: HashMap::new(),
            suspects: BTreeMap::new(),
            was_there: false,
            is_held: pidfd.is_some(),
            had_keeper: false,
            cgroup: None,
            ancestors: Vec::new(),
            unknown: Vec::new(),
            unlisted: Vec::new(),
            vanished: false,
            stage: Stage::first(),
            closing: None,
            exemptions,
            keeper: None,
            exempt_before: HashSet::new(),
            exempted: HashSet::new(),
            judged: HashMap::new(),
            left_before: false,
        };
        let (row, identity) = (tree.root.row, tree.root.identity);
        let probe = match pidfd {
            Some(fd) => probe_held(context, &identity, fd, snapshot),
            None => Pinned::probe(context.proc, context.observer.scope, &identity),
        };
        tree.was_there = matches!(probe, Probe::Alive(_) | Probe::Zombie(_));
        if tree.was_there && !tree.is_held {
            tree.cgroup = context.proc.cgroup(identity.pid).ok().flatten();
            tree.ancestors = context.proc.ancestors(identity.pid);
        }
        tree.add_recorded(context, Some(row), identity, Evidence::Root, probe);
        for (row, identity) in recorded {
            let probe = Pinned::probe(context.proc, context.observer.scope, &identity);
            tree.add_recorded(context, row, identity, Evidence::Recorded, probe);
        }
        tree
    }

    fn add_recorded(
        &mut self,
        context: &EndContext<'_>,
        row: Option<ProcessId>,
        identity: Identity,
        evidence: Evidence,
        probe: Probe,
    ) {
        let (pinned, dead) = match probe {
            Probe::Alive(pinned) => {
                if let Some(why) = spared(context, pinned.pid(), {
                    // A recorded descendant without a live root is no more certain than a
                    // descendant of a root.
                    evidence == Evidence::Recorded || self.root.origin == Origin::Descendant
                }) {
                    self.unknown.push(LeftRunning { row, identity, why, is_exempt: true });
                    return;
                }
                (Some(pinned), false)
            }
            Probe::Zombie(pinned) => (Some(pinned), true),
            Probe::Gone => (None, true),
            Probe::Unknown(error) => {
                let left = LeftRunning { row, identity, why: error, is_exempt: false };
                self.unknown.push(left);
                return;
            }
        };
        let is_root = evidence == Evidence::Root;
        // The command of a root is recorded; reading it again would take as long as requesting its
        // end.
        let recorded = if is_root { self.root.command.to_vec() } else { Vec::new() };
        let mut info = match &pinned {
            Some(pinned) => ProcessInfo::observed(context.proc, pinned, &self.root, evidence),
            None => ProcessInfo::gone(identity, &self.root, evidence),
        };
        info.command = match &pinned {
            Some(pinned) if recorded.is_empty() => {
                command_of(context.proc, pinned.pid(), self.root.arguments)
            }
            _ => recorded,
        };
        let mut member = Member::new(info, pinned);
        member.row = row;
        member.is_root = is_root;
        if dead {
            member.phase = Phase::Dead(Death::Before);
        } else if !context.may_try(identity.pid) {
            member.refuse(not_ours(identity.pid));
        }
        self.push(member);
    }

    /// Returns the row of a recorded descendant that could not be examined at first, or was to be
    /// left running, and that a scan has found to be a member: it is no longer left out.
    pub(super) fn take_row_of(&mut self, member: &Identity) -> Option<ProcessId> {
        let is_it = |left: &LeftRunning| left.identity.sameness(member) == Sameness::Same;
        let index = self.unknown.iter().position(is_it)?;
        self.unknown.remove(index).row
    }

    pub(super) fn push(&mut self, member: Member) {
        if member.is_alive() || member.pinned.is_some() {
            self.pids.insert(member.pid(), self.members.len());
        }
        self.members.push(member);
    }

    /// Returns whether a member is left that may still end.
    pub(super) fn is_pending(&self) -> bool {
        self.members.iter().any(Member::can_be_ended)
    }

    /// Returns whether the last grace is over, a member was not killed yet, and rounds are left.
    pub(super) fn must_be_killed(&self) -> bool {
        self.stage.may_kill() && self.has_unkilled()
    }

    fn has_unkilled(&self) -> bool {
        self.members.iter().any(|member| member.can_be_ended() && !member.is_dying())
    }

    /// Returns whether there is something left to do: request an end, wait or kill.
    pub(super) fn goes_on(&self) -> bool {
        match self.stage {
            Stage::Asking { .. } => self.is_pending(),
            Stage::Killing { .. } => self.must_be_killed(),
            Stage::Suspending | Stage::Interrupted => false,
        }
    }

    /// Returns whether it is being asked to end, and a member may still end.
    pub(super) fn is_in_grace(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. }) && self.is_pending()
    }

    /// Interrupts its end, unless the grace is over.
    pub(super) fn interrupt(&mut self) {
        if self.is_in_grace() {
            self.stage = Stage::Interrupted;
        }
    }

    /// Returns the members that are alive and are not left running on purpose.
    pub(super) fn alive(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut().filter(|member| member.is_alive() && member.spared().is_none())
    }

    /// Returns its outcome. `unseen` is why the last scan failed, so that it is unknown whether
    /// these were all members.
    pub(super) fn finish(
        self,
        context: &EndContext<'_>,
        snapshot: &Snapshot,
        unseen: Option<&str>,
    ) -> TreeOutcome {
        let interrupted = self.stage == Stage::Interrupted;
        let unseen = match unseen {
            Some(why) => Some(format!("the scan for its descendants failed: {why}")),
            None if interrupted => Some("the attempt to end its tree was interrupted".into()),
            None if self.has_unkilled() || self.vanished => {
                Some("its tree starts new processes faster than they can be ended".into())
            }
            None => None,
        };
        let outlived = self.outlived();
        let members = (self.members.into_iter())
            .map(|member| member.conclude(context.proc, snapshot))
            .collect();
        let suspects = suspected(context, self.suspects, self.root.arguments);
        let Self { root, unknown, .. } = self;
        TreeOutcome { root, members, suspects, unknown, unseen, outlived, interrupted }
    }
}

/// Looks up a root whose pidfd is already held.
fn probe_held(
    context: &EndContext<'_>,
    identity: &Identity,
    fd: Arc<PidFd>,
    snapshot: Option<&Snapshot>,
) -> Probe {
    let shown = snapshot.and_then(|snapshot| snapshot.get(identity.pid));
    match shown.and_then(|stat| Pinned::held(Arc::clone(&fd), *identity, stat)) {
        // It was alive after the snapshot was taken, so it had its PID then.
        Some(pinned) if matches!(pinned.is_dead(), Ok(false)) => Probe::Alive(pinned),
        _ => Pinned::verify(context.proc, context.observer.scope, identity, fd)
            .unwrap_or_else(Probe::Unknown),
    }
}

/// Opens the recorded task cgroup; returns why it cannot be opened, since its members may be known
/// by other evidence.
pub(super) fn open_task_cgroup(
    context: &EndContext<'_>,
    root: &Root,
) -> (Option<TaskCgroup>, Option<String>) {
    let Some(record) = &root.cgroup else { return (None, None) };
    match TaskCgroup::open(record, context.observer.uid) {
        Ok(task_cgroup) => (task_cgroup, None),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let why = format!("{error}{}", cause.unwrap_or_default());
            tracing::error!("{why}: searching for its members by other evidence");
            (None, Some(why))
        }
    }
}

/// Returns suspects with the data that is reported about them.
pub(super) fn suspected(
    context: &EndContext<'_>,
    suspects: BTreeMap<Pid, SuspectReason>,
    arguments: bool,
) -> Vec<Suspected> {
    let described = |(pid, reason)| {
        let start_tick = context.proc.stat(pid).ok().flatten()?.start_tick;
        Some(Suspected {
            pid,
            start_tick,
            reason,
            command: command_of(context.proc, pid, arguments),
        })
    };
    suspects.into_iter().filter_map(described).collect()
}

/// Returns why a recorded process is left running, whatever its row says. This applies to the
/// acting process and its ancestors (invariant 13) and, if a row of an earlier pass is the only
/// evidence that links it to the root, to another live instance or a process of one (invariant 7).
/// A scan finds the latter again if it is really below the root.
fn spared(context: &EndContext<'_>, pid: Pid, recorded: bool) -> Option<Error> {
    let left = |what: &str| {
        Some(Error::new(Kind::Unknown, format!("process {pid} is {what}: left running")))
    };
    if pid == context.own || context.ancestors.contains(&pid) {
        return left("the acting process, or an ancestor of it");
    }
    if recorded && context.foreign_processes().any(|theirs| theirs == pid) {
        return left("another live instance, or belongs to one");
    }
    None
}

/// Tokens that were read in this call. Empty results are not cached, since a process in exec shows
/// no environment.
#[derive(Debug, Default)]
pub(super) struct TokenCache(pub(super) HashMap<(Pid, u64), Vec<Uuid>>);
