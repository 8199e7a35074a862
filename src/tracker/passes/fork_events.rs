//! Uses fork events of the kernel to find the descendants of a root that only its session contains.
//!
//! A daemon that forks twice, leaves the session and clears its environment between two health
//! passes cannot be attributed to its root once its parents are gone. If the kernel reports forks
//! ([`crate::sys::proc_events`]), a thread notes the processes that are forked below our roots, and
//! records those that are still alive and hidden a moment later. A process is hidden if it has left
//! the session and carries no token that an end would count: one that can be read, in a process of
//! the row's UID. A process that is not hidden is found without a row, even after a crash. It is
//! checked again when it calls exec or setsid or changes its UID and, outside the session, each
//! second, since no event reports that it became undumpable or overwrote its environment.
//!
//! The thread listens only while there is such a root, and some seconds longer, since it has to
//! handle each fork on the machine. Nothing relies on it: if events are lost, or happened before it
//! listened, a health pass finds what it can.
//!
//! A process is recorded only if it was started at the time of the event, and its PID is pinned.

use std::{
    collections::HashSet,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{descendants, health};
use crate::{
    error::Result,
    identity::Pid,
    model::{Evidence, ProcessRecord},
    policy::fork_history::{Delays, Forked, ForkedDescendant, Forks},
    store::FoundMember,
    sys::{
        Pinned,
        clock::{boot_minus_monotonic, monotonic_clock},
        poll::timespec,
        proc::{TICK, TICKS_PER_SECOND},
        proc_events::{Connector, Reading},
        snapshot::Snapshot,
    },
    tracker::{
        core::Core,
        runtime::{
            fork_listener::{LINGER, NotStarted},
            tracked::Tracked,
        },
    },
};

/// `check`: after this time most helpers of a build or a shell are gone, and need not be recorded.
/// `watch`: how often a process is checked that only its token links to its root, since no event
/// reports that it became undumpable or overwrote its environment.
const DELAYS: Delays = Delays { check: Duration::from_millis(50), watch: Duration::from_secs(1) };
/// A child of ours becomes a root when its gate opens. The descendants of other children are
/// forgotten after this time.
const BECOMES_A_ROOT: Duration = Duration::from_secs(5);
/// Minimum time between two scans because of lost events, so that a machine that forks faster than
/// we read does not keep us scanning.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// Maximum number of events that are read before processes that are due are checked.
const TURN: usize = 4096;
/// How long events are collected after the first one: a program causes at least four, each of which
/// would wake the thread. This is a fraction of [`Delays::check`], and short enough that the
/// socket's buffer has room for the events meanwhile.
const COLLECT: Duration = Duration::from_millis(5);
/// The kernel determines the start time of a process, then reports the fork; if the parent loses
/// its processor in between, the report is late by up to this time.
const REPORTED_WITHIN: Duration = Duration::from_secs(1);

/// Starts listening, if there is a root that needs it.
pub(in crate::tracker) fn listen_for_forks(core: &Arc<Core>) {
    if !core.options.monitor {
        return;
    }
    core.fork_listener.want(|| {
        // Opened here: where the kernel does not report forks, no thread is started.
        let connector = Connector::open().map_err(NotStarted::Unavailable)?;
        // A root that was started before may have forked already.
        let lost = has_session_roots(core);
        let theirs = Arc::clone(core);
        let listen = move || run(&theirs, connector, lost);
        core.threads.start("procledger-forks", listen).map_err(NotStarted::NoThread)
    });
}

fn has_session_roots(core: &Core) -> bool {
    core.registry.find(is_session_root).is_some()
}

/// Returns whether a process was registered, so that its descendants belong to it.
fn was_registered(core: &Core, pid: Pid) -> bool {
    let is_it = |entry: &Tracked| !entry.child && entry.root.identity.pid == pid;
    core.registry.find(is_it).is_some()
}

fn is_session_root(entry: &Tracked) -> bool {
    entry.child && entry.keeper.is_none() && entry.root.cgroup.is_none()
}

fn run(core: &Arc<Core>, connector: Connector, lost: bool) {
    let forks = Forks::new(core.own_pid(), DELAYS);
    let mut listener = Listener { core, connector, forks, lost, looked: None };
    if let Err(error) = listener.listen() {
        tracing::warn!(
            "fork events are no longer available, the health pass searches for forked processes: {error}"
        );
        core.fork_listener.refuse();
    }
}

struct Listener<'a> {
    core: &'a Arc<Core>,
    connector: Connector,
    forks: Forks,
    /// Whether a process may have been forked without being noted.
    lost: bool,
    looked: Option<Instant>,
}

impl Listener<'_> {
    fn listen(&mut self) -> Result<()> {
        while !self.core.instance.is_closed() {
            self.rescan_if_lost();
            self.wait();
            self.take()?;
            if let Err(error) = self.record_due() {
                // The next health pass finds what it can.
                tracing::warn!("failed to record forked processes: {error}");
            }
            if self.is_idle() {
                break;
            }
        }
        Ok(())
    }

    fn wait(&self) {
        let now = Instant::now();
        let look = self.looked.filter(|_| self.lost).map(|looked| looked + BETWEEN_LOOKS);
        let next = [self.forks.next_due(), look].into_iter().flatten().min();
        let limit = next.map_or(LINGER, |next| next.saturating_duration_since(now).min(LINGER));
        let (connector, woken) = (self.connector.as_fd(), self.core.fork_listener.woken());
        let mut fds = [PollFd::new(&woken, PollFlags::IN), PollFd::new(&connector, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(limit)));
        if fds[0].revents().is_empty() && !fds[1].revents().is_empty() {
            let _ = poll(&mut fds[..1], Some(&timespec(COLLECT)));
        }
    }

    fn take(&mut self) -> Result<()> {
        let now = Instant::now();
        for _ in 0..TURN {
            match self.connector.read()? {
                Reading::Event(event) => {
                    self.forks.take(event, now, |pid| was_registered(self.core, pid));
                }
                Reading::Other => {}
                Reading::Nothing => break,
                Reading::Lost => {
                    self.lost = true;
                    self.forks.forget_all();
                }
            }
        }
        Ok(())
    }

    /// Finds processes whose events were lost, as far as a health pass can find them; then notes
    /// processes that have a row again.
    fn rescan_if_lost(&mut self) {
        let soon = self.looked.is_some_and(|looked| looked.elapsed() < BETWEEN_LOOKS);
        if !self.lost || soon {
            return;
        }
        self.lost = false;
        // Waiting for a grace, this thread would lose more events.
        let looked = health::health_pass_without_waiting(self.core);
        let looked = looked.and_then(|()| self.note_recorded());
        if let Err(error) = looked {
            tracing::warn!("failed to search for forked processes: {error}");
        }
        self.looked = Some(Instant::now());
    }

    fn note_recorded(&mut self) -> Result<()> {
        let rows = self.core.store.live_of(self.core.instance.id)?;
        let forked = |row: &ProcessRecord| {
            // The end of the tick in which the process was started.
            let at = started(row.spec.identity.start_tick) + TICK;
            let at = at.saturating_sub(boot_minus_monotonic());
            let pid = row.pid();
            Some(Forked { pid, at: u64::try_from(at.as_nanos()).ok()? })
        };
        for row in &rows {
            let root = row.spec.root.unwrap_or(row.id);
            let entry = self.core.registry.get(root).filter(|entry| is_session_root(entry));
            let top = rows.iter().find(|row| row.id == root).filter(|_| entry.is_some());
            let Some(top) = top.and_then(forked) else { continue };
            let same = self.pinned(row.pid())?;
            let same = same.filter(|pinned| pinned.stat.start_tick == row.spec.identity.start_tick);
            if let (Some(process), Some(_)) = (forked(row), same) {
                self.forks.add(process, top, true);
            }
        }
        Ok(())
    }

    /// Pins the process that has this PID now, if it is alive.
    fn pinned(&self, pid: Pid) -> Result<Option<Pinned>> {
        let pinned = Pinned::open(&self.core.proc, self.core.pid_scope(), pid)?;
        Ok(pinned.filter(Pinned::has_its_pid))
    }

    fn record_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut found: Vec<(Arc<Tracked>, Pinned)> = Vec::new();
        for noted in self.forks.due(now) {
            let pid = noted.process.pid;
            // A process that cannot be examined is left to the health pass.
            let pinned = self.pinned(pid).ok().flatten();
            let Some(pinned) =
                pinned.filter(|pinned| was_started_at(pinned.stat.start_tick, noted.process.at))
            else {
                self.forks.forget(pid);
                continue;
            };
            if noted.done {
                continue;
            }
            match self.root(&noted) {
                Some(entry) => match self.own_evidence(&entry, &pinned) {
                    OwnEvidence::Session => {}
                    OwnEvidence::Token => self.forks.watch(pid, now),
                    OwnEvidence::None => {
                        self.forks.done(pid);
                        found.push((entry, pinned));
                    }
                },
                None if since(noted.process.at) < BECOMES_A_ROOT => self.forks.again(&noted, now),
                None => self.forks.forget(pid),
            }
        }
        if found.is_empty() { Ok(()) } else { self.record(&found) }
    }

    /// Returns the evidence by which an end would find the process, with the same check as in its
    /// scan.
    fn own_evidence(&self, root: &Tracked, pinned: &Pinned) -> OwnEvidence {
        let (root, pid) = (&root.root, pinned.identity.pid);
        if root.session.map(Pid::get) == Some(pinned.stat.session) {
            return OwnEvidence::Session;
        }
        let carries = root.token.is_some_and(|token| {
            let carried = self.core.proc.tokens(pid);
            carried.is_some_and(|carried| carried.contains(&token))
        });
        let counts = carries && self.core.proc.uid(pid).ok().flatten() == Some(root.uid);
        if counts { OwnEvidence::Token } else { OwnEvidence::None }
    }

    /// Returns the root above the process, once that child of ours is a root.
    fn root(&self, noted: &ForkedDescendant) -> Option<Arc<Tracked>> {
        let root = self.core.registry.find(|entry| {
            let identity = entry.root.identity;
            identity.pid == noted.top.pid && was_started_at(identity.start_tick, noted.top.at)
        });
        root.filter(|entry| is_session_root(entry))
    }

    fn record(&self, found: &[(Arc<Tracked>, Pinned)]) -> Result<()> {
        let core = self.core;
        // A health pass could record the same processes.
        let _pass = core.passes.begin_pass();
        let rows = core.store.live_of(core.instance.id)?;
        let known: HashSet<(Pid, u64)> =
            rows.iter().map(|row| (row.pid(), row.spec.identity.start_tick)).collect();
        let unknown = found.iter().filter(|(_, pinned)| {
            !known.contains(&(pinned.identity.pid, pinned.identity.start_tick))
        });
        let new: Vec<_> = unknown
            .filter(|(entry, _)| !entry.is_being_ended() && !self.protects(entry))
            .filter_map(|(entry, pinned)| {
                let root = rows.iter().find(|row| row.id == entry.root.row)?;
                let (snapshot, event) = (Snapshot::default(), Evidence::ForkEvent);
                let new = descendants::new_row(core, root, &snapshot, &pinned.stat, event)?;
                Some(FoundMember { new, may_stay: entry.strays.keep })
            })
            .collect();
        if !new.is_empty() {
            descendants::write_members(core, &new)?;
            core.export.notify();
        }
        Ok(())
    }

    /// Returns whether a process below this root may be protected. Checking that requires a scan of
    /// the whole tree, which is left to the health pass.
    fn protects(&self, entry: &Tracked) -> bool {
        !(self.core.options.protected.is_empty() && entry.strays.protected.is_empty())
    }

    fn is_idle(&self) -> bool {
        self.core.fork_listener.ends_unless(|| has_session_roots(self.core))
    }
}

/// The evidence in a process itself that it belongs to its root, apart from its parents.
enum OwnEvidence {
    Session,
    /// Its token, as long as that can be read and the process has the root's UID.
    Token,
    None,
}

/// Returns whether the process with this start tick is the one that was reported at this time with
/// the same PID. If the process that has the PID now was started by then, it had the PID then; a
/// process that reused the PID was started later.
fn was_started_at(start_tick: u64, at: u64) -> bool {
    let reported = Duration::from_nanos(at) + boot_minus_monotonic();
    reported.checked_sub(started(start_tick)).is_some_and(|after| after < REPORTED_WITHIN)
}

/// Returns the start time on the boot clock.
fn started(start_tick: u64) -> Duration {
    Duration::from_millis(start_tick.saturating_mul(1000 / TICKS_PER_SECOND))
}

fn since(at: u64) -> Duration {
    monotonic_clock().saturating_sub(Duration::from_nanos(at))
}
