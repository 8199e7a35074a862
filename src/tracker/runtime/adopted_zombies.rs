//! Reaps zombies that tasks leave to this process.
//!
//! A process that a task starts and leaves behind is adopted by the nearest subreaper (`PR_SET_CHILD_SUBREAPER` in prctl(2)) or
//! by the first process of the PID namespace. Where that is the host, only the host can reap it, and until then it occupies a
//! PID and a slot under `pids.max`. The tracker therefore reaps such a zombie where it certainly comes from a task:
//!
//! - its session is one that the gate created for a root, and the root still has its PID. A session is inherited and cannot be
//!   joined, so the processes that the host itself starts are in none of these, unless the host is in it too: then the session
//!   proves nothing;
//! - it is in the cgroup that was created for a root, and the host is not;
//! - it was recorded as a descendant of a root.
//!
//! Roots are remembered for a while after they have ended, since a task may leave a process behind on purpose; a session then
//! counts only for processes that were started while the root still had its PID. Every other zombie is left to the host.
//! Members that an end has found are reaped once their ends are recorded ([`crate::tracker::end::outcome`]).
//!
//! The kernel notifies a library of no such death: `SIGCHLD` belongs to the host. While tasks run, one system call each 100 ms
//! checks for zombies.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::{OsStr, OsString},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{lock::lock, tracked::Root};
use crate::{
    identity::{Identity, Pid},
    model::{Containment, Origin, Outcome, ProcessId, ProcessRecord},
    sys::{
        Pinned, Probe,
        children::{adopts_orphans, has_dead_child},
        keeper,
        pid_alloc::cannot_be_reused_within,
        proc::{TICK, TICKS_PER_SECOND, this_tick},
        snapshot::Stat,
    },
    tracker::{core::Core, end::run::MemberEnd},
};

/// Time between two checks for zombies.
const PAUSE: Duration = Duration::from_millis(100);
/// A scan costs time in proportion to the number of the host's children: the next one waits this many times as long.
const BETWEEN_LOOKS: u32 = 20;
/// For this long after a root has ended the checks go on; after that the health pass does them.
const LINGER: Duration = Duration::from_secs(10);
/// Maximum number of ended roots that are remembered.
const REMEMBERED: usize = 1024;
/// A keeper starts its program within this time: the longest handshake.
const KEEPER_STARTS_WITHIN: u64 = 10 * TICKS_PER_SECOND;

/// What is known of zombies, kept from one scan to the next.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Adopted {
    /// Children whose ends are recorded, and that are not reaped yet. Written by ends, read after each record and by passes.
    pub(in crate::tracker) unreaped: Mutex<Vec<std::sync::Arc<crate::sys::PidFd>>>,
    ended: Mutex<Ended>,
    /// Zombies that the ledger does not know, by PID and start tick, so that it is not queried for them again.
    unknown: Mutex<HashSet<(Pid, u64)>>,
}

#[derive(Debug, Default)]
struct Ended {
    roots: VecDeque<Owner>,
    /// When the last of them ended.
    last: Option<Instant>,
}

/// A root that zombies may come from.
#[derive(Clone, Debug)]
struct Owner {
    row: ProcessId,
    root: Identity,
    session: Option<Pid>,
    /// The name of its cgroup, which is unique.
    leaf: Option<OsString>,
    /// For a root that has ended: processes started before this tick were started while the root had its PID. `None`: whether
    /// the root still has its PID is checked.
    until: Option<u64>,
    /// It had a keeper that the former image of this process had started.
    keeper: bool,
}

impl Owner {
    fn new(root: &Root) -> Self {
        let leaf = root.cgroup.as_ref().and_then(|leaf| leaf.path.file_name());
        Self {
            row: root.row,
            root: root.identity,
            session: root.session,
            leaf: leaf.map(OsStr::to_owned),
            until: None,
            keeper: false,
        }
    }
}

/// Roots, indexed by the evidence that attributes a zombie to one of them.
struct Owners {
    all: Vec<Owner>,
    roots: HashSet<(Pid, u64)>,
    /// A PID may have been reused by the sessions of several roots, one after the other.
    sessions: HashMap<u32, Vec<usize>>,
    leaves: HashSet<OsString>,
    /// The host's own session, which proves nothing.
    own_session: u32,
}

impl Owners {
    /// Returns whether a zombie belongs to one of them.
    fn has(&self, dead: &Stat) -> bool {
        self.roots.contains(&(dead.pid, dead.start_tick))
    }
}

impl Core {
    /// Reaps the zombies that tasks have left to this process.
    pub(in crate::tracker) fn reap_adopted(&self) {
        if self.instance.is_forked() || !self.expects_zombies() || !has_dead_child() {
            return;
        }
        let dead = match self.proc.dead_children() {
            Ok(dead) => dead,
            Err(error) => return tracing::debug!("failed to list zombies: {error}"),
        };
        let owners = self.owners();
        let mut unclear = Vec::new();
        // Roots are reaped when their ends are recorded.
        for dead in dead.iter().filter(|dead| !owners.has(dead)) {
            if self.is_in_session(&owners, dead) || self.is_in_leaf(&owners, dead.pid) {
                self.reap_zombie(dead);
            } else if let Some(owner) = owners.all.iter().find(|owner| is_keeper(owner, dead)) {
                self.reap_zombie(dead);
                let mut ended = lock(&self.adopted.ended);
                ended
                    .roots
                    .iter_mut()
                    .filter(|it| it.row == owner.row)
                    .for_each(|it| it.keeper = false);
            } else {
                unclear.push(dead);
            }
        }
        self.reap_recorded(&owners, &unclear);
    }

    /// Does the same for the monitor; returns the time after which the next check is worthwhile.
    pub(in crate::tracker) fn look_for_zombies(&self) -> Duration {
        let began = Instant::now();
        self.reap_adopted();
        PAUSE.max(began.elapsed() * BETWEEN_LOOKS)
    }

    /// Returns whether a zombie may appear before the next health pass.
    pub(in crate::tracker) fn may_adopt(&self) -> bool {
        if !self.expects_zombies() {
            return false;
        }
        let lingers = lock(&self.adopted.ended).last.is_some_and(|last| last.elapsed() < LINGER);
        lingers || !lock(&self.entries).is_empty()
    }

    /// Returns whether this process may have children that this image did not start.
    fn expects_zombies(&self) -> bool {
        adopts_orphans() || lock(&self.adopted.ended).roots.iter().any(|owner| owner.keeper)
    }

    /// Running roots, and ended ones that are still remembered.
    fn owners(&self) -> Owners {
        let running = self.all_entries().into_iter().map(|entry| Owner::new(&entry.root));
        let all: Vec<Owner> =
            running.chain(lock(&self.adopted.ended).roots.iter().cloned()).collect();
        let own = self.proc.stat(self.own_pid()).ok().flatten();
        let mut sessions: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, owner) in all.iter().enumerate() {
            if let Some(session) = owner.session {
                sessions.entry(session.get()).or_default().push(at);
            }
        }
        let mut leaves: HashSet<OsString> =
            all.iter().filter_map(|owner| owner.leaf.clone()).collect();
        // A host that a task has started is in that task's cgroup, together with everything that it starts itself.
        if !leaves.is_empty() {
            for own in self.proc.cgroup_names(self.own_pid()) {
                leaves.remove(&own);
            }
        }
        let roots = all.iter().map(|owner| (owner.root.pid, owner.root.start_tick)).collect();
        Owners { roots, sessions, leaves, own_session: own.map_or(0, |own| own.session), all }
    }

    fn is_in_session(&self, owners: &Owners, dead: &Stat) -> bool {
        if dead.session == owners.own_session || dead.pid.get() == dead.session {
            return false;
        }
        let mut of = owners.sessions.get(&dead.session).into_iter().flatten();
        of.any(|&at| match owners.all[at].until {
            Some(until) => dead.start_tick < until,
            None => self.has_its_number(&owners.all[at].root),
        })
    }

    fn has_its_number(&self, identity: &Identity) -> bool {
        matches!(
            Pinned::probe(&self.proc, self.place(), identity),
            Probe::Alive(_) | Probe::Zombie(_)
        )
    }

    fn is_in_leaf(&self, owners: &Owners, dead: Pid) -> bool {
        !owners.leaves.is_empty()
            && self.proc.cgroup_names(dead).iter().any(|name| owners.leaves.contains(name))
    }

    /// The ledger also knows daemons that have left both session and cgroup.
    fn reap_recorded(&self, owners: &Owners, unclear: &[&Stat]) {
        let seen: HashSet<(Pid, u64)> =
            unclear.iter().map(|dead| (dead.pid, dead.start_tick)).collect();
        let new = {
            let mut unknown = lock(&self.adopted.unknown);
            unknown.retain(|zombie| seen.contains(zombie));
            unclear.iter().any(|dead| !unknown.contains(&(dead.pid, dead.start_tick)))
        };
        if !new || owners.all.is_empty() {
            return;
        }
        let rows: Vec<ProcessId> = owners.all.iter().map(|owner| owner.row).collect();
        let below = match self.store.below(&rows) {
            Ok(below) => below,
            Err(error) => {
                return tracing::debug!("failed to look up the roots of zombies: {error}");
            }
        };
        let recorded: Vec<Identity> = (below.into_iter())
            .flat_map(|below| {
                below.live.into_iter().map(|(_, identity)| identity).chain(below.kept)
            })
            .collect();
        for dead in unclear {
            let is_it = |identity: &&Identity| {
                identity.pid == dead.pid && identity.start_tick == dead.start_tick
            };
            let verified = recorded.iter().filter(is_it).any(|it| self.has_its_number(it));
            if verified {
                self.reap_zombie(dead);
            } else {
                lock(&self.adopted.unknown).insert((dead.pid, dead.start_tick));
            }
        }
    }

    /// Reaps a zombie: exactly the one that was seen, which keeps its PID until then.
    fn reap_zombie(&self, dead: &Stat) {
        let found = Pinned::open(&self.proc, self.place(), dead.pid).ok().flatten();
        let Some(zombie) = found.filter(|it| it.identity.start_tick == dead.start_tick) else {
            return;
        };
        // An error: the host has reaped it meanwhile. A zombie that has live threads, or is traced, is reaped later.
        if matches!(zombie.fd().child_status(true), Ok(Some(_))) {
            tracing::debug!("reaped process {}, which a task had left", dead.pid);
        }
    }

    /// Called before a root is reaped: remembers the root, since it may have left processes behind.
    pub(in crate::tracker) fn remember_for_zombies(&self, root: &Root) {
        if root.origin == Origin::Spawned && adopts_orphans() {
            self.remember(Owner::new(root));
        }
    }

    /// Does the same for roots that a former image of this process has left. Their keepers are children of this process as
    /// well.
    pub(in crate::tracker) fn remember_replaced(&self, records: &[&ProcessRecord]) {
        for record in records {
            let keeper = record.containment == Containment::Keeper;
            self.remember(Owner { keeper, ..Owner::new(&Root::from(*record)) });
        }
        self.reap_adopted();
    }

    /// Remembers ended roots of former images. Another instance may have ended the processes that a former image of this
    /// process left, and recorded that, before this one opened the ledger. The zombies are children of this process all the
    /// same.
    pub(in crate::tracker) fn reap_former_roots(&self) {
        if !has_dead_child() {
            return;
        }
        let roots = self.store.roots_of_former_images(&self.instance.identity, self.instance.id);
        let roots = roots.unwrap_or_else(|error| {
            tracing::debug!("failed to look up the roots of former images: {error}");
            Vec::new()
        });
        for root in roots {
            if let Probe::Zombie(zombie) = Pinned::probe(&self.proc, self.place(), &root) {
                // An error: it is not a child of this process.
                let _ = zombie.fd().child_status(true);
            }
        }
    }

    fn remember(&self, mut owner: Owner) {
        let is_full = lock(&self.adopted.ended).roots.len() >= REMEMBERED;
        if is_full {
            // The zombies that the older half has left so far are reaped, and that half is forgotten.
            self.reap_adopted();
            let mut ended = lock(&self.adopted.ended);
            let older = ended.roots.len().min(REMEMBERED / 2);
            ended.roots.drain(..older);
        }
        let now = this_tick();
        // A root that still has its PID also had it in that tick.
        owner.session = owner.session.filter(|_| self.has_its_number(&owner.root));
        // Processes started in this very tick count where a PID, once free, could not be reused within the tick.
        let within = u64::from(cannot_be_reused_within(TICK));
        owner.until = Some(now.saturating_add(within));
        let mut ended = lock(&self.adopted.ended);
        ended.last = Some(Instant::now());
        ended.roots.push_back(owner);
    }

    /// Handles a member that an end has found: its zombie is reaped after its end is recorded.
    pub(in crate::tracker) fn reap_after_record(&self, root: &Root, member: &MemberEnd) {
        // The status of a registered process belongs to its parent, and a root that is still tracked is handled by its entry.
        let ours =
            !member.is_root || root.origin == Origin::Spawned && self.entry(root.row).is_none();
        if ours && member.outcome != Outcome::Survived {
            lock(&self.adopted.unreaped).extend(member.own_child.clone());
        }
    }

    /// Reaps zombies whose ends are recorded. One that a tracer still holds is retried later.
    pub(in crate::tracker) fn reap_ended(&self) {
        let mut unreaped = std::mem::take(&mut *lock(&self.adopted.unreaped));
        unreaped.retain(|fd| matches!(fd.child_status(true), Ok(None)));
        lock(&self.adopted.unreaped).extend(unreaped);
    }
}

/// Returns whether a zombie is the keeper that a former image of this process had started for a root. Its name is only a part
/// of the evidence.
fn is_keeper(owner: &Owner, dead: &Stat) -> bool {
    let before = owner.root.start_tick.checked_sub(dead.start_tick);
    owner.keeper
        && before.is_some_and(|ticks| ticks <= KEEPER_STARTS_WITHIN)
        && dead.session == dead.pid.get()
        && keeper::is_name(&dead.comm)
}
