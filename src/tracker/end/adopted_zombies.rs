//! Reaps zombies that tasks leave to this process.
//!
//! A process that a task starts and leaves behind is adopted by the nearest subreaper
//! (`PR_SET_CHILD_SUBREAPER` in prctl(2)) or by the first process of the PID namespace. If that is
//! the host, only the host can reap it, and until then it occupies a PID and a slot under
//! `pids.max`. The tracker therefore reaps such a zombie if it certainly comes from a task:
//!
//! - its session is one that the gate created for a root, and the root still has its PID. A session
//!   is inherited and cannot be joined, so processes that the host itself starts are in none of
//!   these sessions, unless the host is in one too: that session proves nothing;
//! - it is in the cgroup that was created for a root, and the host is not;
//! - it was recorded as a descendant of a root.
//!
//! Roots are remembered for a while after they have ended, since a task may leave a process behind
//! on purpose; a session then counts only for processes that were started while the root still had
//! its PID. Every other zombie is left to the host. Members that an end has found are reaped once
//! their ends are recorded ([`crate::tracker::end::outcome`]).
//!
//! A host that starts no processes by other means can have all of them reaped
//! ([`Builder::reap_all`](crate::Builder::reap_all)).
//!
//! A library is not notified of such deaths, since `SIGCHLD` belongs to the host. While tasks run,
//! one system call each 100 ms checks for zombies.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
};

use super::run::MemberOutcome;
use crate::{
    identity::{Identity, Pid},
    model::{Containment, Origin, ProcessId, ProcessRecord},
    sys::{
        Pinned, Probe,
        children::{adopts_orphans, has_dead_child},
        keeper,
        pid_alloc::cannot_be_reused_within,
        proc::{TICK, TICKS_PER_SECOND, this_tick},
        snapshot::Stat,
    },
    tracker::{
        core::Core,
        runtime::{adopted_zombies::Owner, tracked::Root},
    },
};

/// Time within which a keeper starts its program, in ticks: the time limit of a handshake.
const KEEPER_STARTS_WITHIN: u64 = 10 * TICKS_PER_SECOND;

/// Roots, indexed by the evidence that attributes a zombie to one of them.
struct Owners {
    all: Vec<Owner>,
    roots: HashSet<(Pid, u64)>,
    /// The same PID may have named the sessions of several roots, one after the other.
    sessions: HashMap<u32, Vec<usize>>,
    task_cgroups: HashSet<OsString>,
    /// The host's own session, which proves nothing.
    own_session: u32,
}

impl Owners {
    /// Returns whether a zombie is one of the roots.
    fn has(&self, dead: &Stat) -> bool {
        self.roots.contains(&(dead.pid, dead.start_tick))
    }
}

/// Reaps the zombies that tasks have left to this process.
pub(in crate::tracker) fn reap_adopted(core: &Core) {
    if core.instance.is_forked() || !expects_zombies(core) || !has_dead_child() {
        return;
    }
    let dead = match core.proc.dead_children() {
        Ok(dead) => dead,
        Err(error) => return tracing::debug!("failed to list zombies: {error}"),
    };
    if core.options.reap_all {
        return reap_others(core, &dead);
    }
    let owners = owners(core);
    let mut unclear = Vec::new();
    // Roots are reaped when their ends are recorded.
    for dead in dead.iter().filter(|dead| !owners.has(dead)) {
        if is_in_session(core, &owners, dead) || is_in_task_cgroup(core, &owners, dead.pid) {
            reap_zombie(core, dead);
        } else if let Some(owner) = owners.all.iter().find(|owner| is_keeper(owner, dead)) {
            reap_zombie(core, dead);
            core.zombies.forget_keeper(owner.row);
        } else {
            unclear.push(dead);
        }
    }
    reap_recorded(core, &owners, &unclear);
}

/// Returns whether a zombie may appear before the next health pass.
pub(in crate::tracker) fn may_adopt(core: &Core) -> bool {
    may_get_children(core) && (core.zombies.linger() || core.registry.len() > 0)
}

/// Returns whether this process may get children that this image did not start.
fn may_get_children(core: &Core) -> bool {
    adopts_orphans() || core.zombies.expect_keeper()
}

/// Returns whether this process may have such children now: a former image may have left some.
fn expects_zombies(core: &Core) -> bool {
    core.options.reap_all || may_get_children(core)
}

/// Reaps all zombies, except roots and keepers, which the tracker waits for. A child that was being
/// spawned when the zombies were listed is tracked by now, unless a spawn is still in progress:
/// then the next check reaps them.
fn reap_others(core: &Core, dead: &[Stat]) {
    if core.instance.is_spawning() {
        return;
    }
    let own: HashSet<(Pid, u64)> = (core.registry.all().iter())
        .flat_map(|entry| [Some(entry.root.identity), entry.root.keeper])
        .flatten()
        .map(|it| (it.pid, it.start_tick))
        .collect();
    for dead in dead.iter().filter(|dead| !own.contains(&(dead.pid, dead.start_tick))) {
        reap_zombie(core, dead);
    }
}

/// Returns the running roots, and ended ones that are still remembered.
fn owners(core: &Core) -> Owners {
    let running = core.registry.all().into_iter().map(|entry| Owner::new(&entry.root));
    let all: Vec<Owner> = running.chain(core.zombies.remembered()).collect();
    let own = core.proc.stat(core.own_pid()).ok().flatten();
    let mut sessions: HashMap<u32, Vec<usize>> = HashMap::new();
    for (at, owner) in all.iter().enumerate() {
        if let Some(session) = owner.session {
            sessions.entry(session.get()).or_default().push(at);
        }
    }
    let mut task_cgroups: HashSet<OsString> =
        all.iter().filter_map(|owner| owner.task_cgroup.clone()).collect();
    // A host that was started by a task is in that task's cgroup, together with everything that it
    // starts itself.
    if !task_cgroups.is_empty() {
        for own in core.proc.cgroup_names(core.own_pid()) {
            task_cgroups.remove(&own);
        }
    }
    let roots = all.iter().map(|owner| (owner.root.pid, owner.root.start_tick)).collect();
    Owners { roots, sessions, task_cgroups, own_session: own.map_or(0, |own| own.session), all }
}

fn is_in_session(core: &Core, owners: &Owners, dead: &Stat) -> bool {
    if dead.session == owners.own_session || dead.pid.get() == dead.session {
        return false;
    }
    let mut of = owners.sessions.get(&dead.session).into_iter().flatten();
    of.any(|&at| match owners.all[at].until {
        Some(until) => dead.start_tick < until,
        None => has_its_pid(core, &owners.all[at].root),
    })
}

fn has_its_pid(core: &Core, identity: &Identity) -> bool {
    matches!(
        Pinned::probe(&core.proc, core.pid_scope(), identity),
        Probe::Alive(_) | Probe::Zombie(_)
    )
}

fn is_in_task_cgroup(core: &Core, owners: &Owners, dead: Pid) -> bool {
    !owners.task_cgroups.is_empty()
        && core.proc.cgroup_names(dead).iter().any(|name| owners.task_cgroups.contains(name))
}

/// Reaps zombies that are in the ledger, which also has daemons that have left both session and
/// cgroup.
fn reap_recorded(core: &Core, owners: &Owners, unclear: &[&Stat]) {
    let seen: HashSet<(Pid, u64)> =
        unclear.iter().map(|dead| (dead.pid, dead.start_tick)).collect();
    if !core.zombies.has_new(&seen) || owners.all.is_empty() {
        return;
    }
    let rows: Vec<ProcessId> = owners.all.iter().map(|owner| owner.row).collect();
    let descendants = match core.store.descendants(&rows) {
        Ok(descendants) => descendants,
        Err(error) => {
            return tracing::debug!("failed to look up the roots of zombies: {error}");
        }
    };
    let recorded: Vec<Identity> = (descendants.into_values())
        .flat_map(|it| it.live.into_iter().map(|(_, identity)| identity).chain(it.spared))
        .collect();
    for dead in unclear {
        let is_it = |identity: &&Identity| {
            identity.pid == dead.pid && identity.start_tick == dead.start_tick
        };
        let verified = recorded.iter().filter(is_it).any(|it| has_its_pid(core, it));
        if verified {
            reap_zombie(core, dead);
        } else {
            core.zombies.add_unknown((dead.pid, dead.start_tick));
        }
    }
}

/// Reaps a zombie that was found. It is still the same process, since a zombie keeps its PID until
/// it is reaped.
fn reap_zombie(core: &Core, dead: &Stat) {
    let found = Pinned::open(&core.proc, core.pid_scope(), dead.pid).ok().flatten();
    let Some(zombie) = found.filter(|it| it.identity.start_tick == dead.start_tick) else {
        return;
    };
    // An error means that the host has reaped it meanwhile. A zombie that has live threads, or is
    // traced, is reaped later.
    if matches!(zombie.fd().child_status(true), Ok(Some(_))) {
        tracing::debug!("reaped process {}, which was left to this one", dead.pid);
    }
}

/// Remembers a root that is about to be reaped, since it may have left processes behind.
pub(in crate::tracker) fn remember_for_zombies(core: &Core, root: &Root) {
    if root.origin == Origin::Spawned && adopts_orphans() {
        remember(core, Owner::new(root));
    }
}

/// Does the same for roots that a former image of this process has left. Their keepers are children
/// of this process as well.
pub(in crate::tracker) fn remember_replaced(core: &Core, records: &[&ProcessRecord]) {
    for record in records {
        let keeper = record.spec.containment == Containment::Keeper;
        remember(core, Owner { keeper, ..Owner::new(&Root::from(*record)) });
    }
    reap_adopted(core);
}

/// Remembers ended roots of former images. Before this instance opened the ledger, another one may
/// have ended the processes that a former image of this process left, and recorded their ends.
/// Their zombies are still children of this process.
pub(in crate::tracker) fn reap_former_roots(core: &Core) {
    if !has_dead_child() {
        return;
    }
    let roots = core.store.roots_of_former_images(&core.instance.identity, core.instance.id);
    let roots = roots.unwrap_or_else(|error| {
        tracing::debug!("failed to look up the roots of former images: {error}");
        Vec::new()
    });
    for root in roots {
        if let Probe::Zombie(zombie) = Pinned::probe(&core.proc, core.pid_scope(), &root) {
            // An error means that it is not a child of this process.
            let _ = zombie.fd().child_status(true);
        }
    }
}

fn remember(core: &Core, mut owner: Owner) {
    if core.zombies.is_full() {
        // Reap the zombies that the older half has left so far, and forget that half.
        reap_adopted(core);
        core.zombies.forget_older_half();
    }
    let now = this_tick();
    // A root that still has its PID also had it in that tick.
    owner.session = owner.session.filter(|_| has_its_pid(core, &owner.root));
    // Processes that started in this very tick count if a free PID cannot be reused within the
    // tick.
    let within = u64::from(cannot_be_reused_within(TICK));
    owner.until = Some(now.saturating_add(within));
    core.zombies.remember(owner);
}

/// Notes a member of an ended tree, whose zombie is reaped after its end is recorded.
pub(in crate::tracker) fn reap_after_record(core: &Core, root: &Root, member: &MemberOutcome) {
    // The status of a registered process belongs to its parent, and a root that is still tracked is
    // handled by its entry.
    let ours =
        !member.is_root || root.origin == Origin::Spawned && core.registry.get(root.row).is_none();
    if ours && !member.fate.has_survived() {
        core.zombies.unreaped.extend(member.own_child.clone());
    }
}

/// Reaps zombies whose ends are recorded. If a tracer still holds one, it is retried later.
pub(in crate::tracker) fn reap_ended(core: &Core) {
    let mut unreaped = core.zombies.unreaped.take();
    unreaped.retain(|fd| matches!(fd.child_status(true), Ok(None)));
    core.zombies.unreaped.extend(unreaped);
}

/// Returns whether a zombie is the keeper that a former image of this process started for a root.
/// Its name is only part of the evidence.
fn is_keeper(owner: &Owner, dead: &Stat) -> bool {
    let before = owner.root.start_tick.checked_sub(dead.start_tick);
    owner.keeper
        && before.is_some_and(|ticks| ticks <= KEEPER_STARTS_WITHIN)
        && dead.session == dead.pid.get()
        && keeper::is_name(&dead.comm)
}
