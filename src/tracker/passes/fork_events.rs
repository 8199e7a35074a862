//! Uses fork events of the kernel to find the descendants of a root that is held by its session only.
//!
//! A daemon that forks twice, leaves the session and wipes its environment between two health passes cannot be attributed once
//! its parents are gone. Where the kernel reports forks ([`crate::sys::proc_events`]), a thread notes the processes that are
//! forked below our roots, and records those that a moment later are still alive and hidden: a hidden process has left the
//! session, and carries no token that an end will count, that is, one that can be read in a process of the row's UID. A process
//! that is not hidden is found without a row, also after a crash; it is checked again when it calls exec or setsid or changes
//! its UID, and, outside of the session, each second: no event reports that it became undumpable, or overwrote its environment.
//!
//! The thread listens only while there is such a root, and some seconds longer: each fork on the machine costs it a moment. No
//! spawn depends on it. Nothing relies on it: where events are lost, or were reported before it listened, a health pass finds
//! what it can.
//!
//! A PID from an event is recorded only for a process that was started when the event says, and whose PID is pinned.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::{
    error::{Error, Result},
    identity::Pid,
    model::{NewProcess, ProcessRecord},
    policy::{
        fork_history::{Forked, Forks, Noted},
        membership::Evidence,
    },
    sys::{
        Pinned,
        pidfd::timespec,
        place::{boot_minus_monotonic, monotonic_clock},
        proc::{TICK, TICKS_PER_SECOND},
        proc_events::{Connector, Reading},
        snapshot::Snapshot,
    },
    tracker::{
        core::Core,
        runtime::{lock::lock, tracked::Entry},
    },
};

/// It goes on listening for this long after the last spawn, so that it need not start again for each of several successive
/// roots.
const LINGER: Duration = Duration::from_secs(10);
/// A spawn waits no longer than this for the listener.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);
/// A root is ours as soon as its gate has opened; the descendants of another child of ours are forgotten after this time.
const BECOMES_A_ROOT: Duration = Duration::from_secs(5);
/// Minimum time between two scans because of lost events: a machine that forks faster than we read must not keep us scanning.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// Events that are read in one turn, before processes that are due are checked.
const TURN: usize = 4096;
/// The kernel notes a start, then reports it; a parent that loses its processor in between reports it later.
const REPORTED_WITHIN: Duration = Duration::from_secs(1);

/// State of the thread that listens.
#[derive(Debug)]
pub(in crate::tracker) struct Listening {
    state: Mutex<Progress>,
    /// The thread listens, or has found that it cannot.
    begun: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Progress {
    running: bool,
    /// Forks are reported from now on.
    listens: bool,
    /// The kernel does not report forks; tried once.
    refused: bool,
    /// When a root was last about to start.
    wanted: Option<Instant>,
}

impl Listening {
    pub(in crate::tracker) fn new() -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::os("failed to set up the listener for forks", error))?;
        Ok(Self { state: Mutex::default(), begun: Condvar::new(), wake })
    }

    /// The kernel does not report forks, or does not any more.
    fn refuse(&self) {
        let mut state = lock(&self.state);
        (state.running, state.listens, state.refused) = (false, false, true);
        drop(state);
        self.begun.notify_all();
    }

    /// Makes the thread check whether it is to end.
    pub(in crate::tracker) fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Core {
    /// Begins to listen, if that is of use. The first spawn waits for it, usually a millisecond: a program may hide faster than
    /// a thread starts.
    pub(in crate::tracker) fn listen_for_forks(self: &Arc<Self>) {
        if !self.options.monitor {
            return;
        }
        let mut state = lock(&self.forks.state);
        state.wanted = Some(Instant::now());
        if state.running || state.refused {
            return;
        }
        state.running = true;
        let theirs = Arc::clone(self);
        let started =
            std::thread::Builder::new().name("procledger-forks".into()).spawn(move || run(&theirs));
        match started {
            Ok(thread) => {
                let mut threads = lock(&self.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
                drop(threads);
                let waits = |state: &mut Progress| state.running && !state.listens;
                let _ = self.forks.begun.wait_timeout_while(state, BEGINS_WITHIN, waits);
            }
            Err(error) => {
                state.running = false;
                tracing::warn!("failed to start the listener for forks: {error}");
            }
        }
    }

    fn has_session_roots(&self) -> bool {
        lock(&self.entries).values().any(|entry| is_session_root(entry))
    }

    /// Returns whether a process was registered, so that its descendants belong to it.
    fn was_registered(&self, pid: Pid) -> bool {
        lock(&self.entries).values().any(|entry| !entry.child && entry.root.identity.pid == pid)
    }
}

fn is_session_root(entry: &Entry) -> bool {
    entry.child && entry.kept.is_none() && entry.root.cgroup.is_none()
}

fn run(core: &Arc<Core>) {
    crate::sys::leave_signals_to_the_host();
    let connector = match Connector::open() {
        Ok(connector) => connector,
        Err(error) => {
            tracing::debug!(
                "fork events are unavailable, the health pass searches for forked processes: {error}"
            );
            core.forks.refuse();
            return;
        }
    };
    lock(&core.forks.state).listens = true;
    core.forks.begun.notify_all();
    let forks = Forks::new(core.own_pid());
    // A root that was there before we listened may have forked already.
    let lost = core.has_session_roots();
    let mut listener = Listener { core, connector, forks, lost, looked: None };
    if let Err(error) = listener.listen() {
        tracing::warn!(
            "fork events are no longer available, the health pass searches for forked processes: {error}"
        );
        core.forks.refuse();
    }
}

struct Listener<'a> {
    core: &'a Arc<Core>,
    connector: Connector,
    forks: Forks,
    /// A process may have been forked without being noted.
    lost: bool,
    looked: Option<Instant>,
}

impl Listener<'_> {
    fn listen(&mut self) -> Result<()> {
        while !self.core.instance.is_closed() {
            self.look_if_lost();
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
        let wake = &self.core.forks.wake;
        let connector = self.connector.as_fd();
        let mut fds = [PollFd::new(&connector, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(limit)));
    }

    fn take(&mut self) -> Result<()> {
        let now = Instant::now();
        for _ in 0..TURN {
            match self.connector.read()? {
                Reading::Event(event) => {
                    self.forks.take(event, now, |pid| self.core.was_registered(pid));
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

    /// Finds processes whose events were lost, as far as a health pass finds them; then processes that have a row are noted
    /// again.
    fn look_if_lost(&mut self) {
        let soon = self.looked.is_some_and(|looked| looked.elapsed() < BETWEEN_LOOKS);
        if !self.lost || soon {
            return;
        }
        self.lost = false;
        // If this thread waited for a grace, it would lose more events.
        let looked = self.core.health_pass_without_waiting();
        let looked = looked.and_then(|()| self.note_recorded());
        if let Err(error) = looked {
            tracing::warn!("failed to search for forked processes: {error}");
        }
        self.looked = Some(Instant::now());
    }

    fn note_recorded(&mut self) -> Result<()> {
        let rows = self.core.store.live_of(self.core.instance.id)?;
        let forked = |row: &ProcessRecord| {
            // The end of the tick in which it was started.
            let at = started(row.identity.start_tick) + TICK;
            let at = at.saturating_sub(boot_minus_monotonic());
            let pid = row.identity.pid;
            Some(Forked { pid, at: u64::try_from(at.as_nanos()).ok()? })
        };
        for row in &rows {
            let root = row.root.unwrap_or(row.id);
            let entry = self.core.entry(root).filter(|entry| is_session_root(entry));
            let top = rows.iter().find(|row| row.id == root).filter(|_| entry.is_some());
            let Some(top) = top.and_then(forked) else { continue };
            let same = self.pinned(row.identity.pid)?;
            let same = same.filter(|pinned| pinned.stat.start_tick == row.identity.start_tick);
            if let (Some(process), Some(_)) = (forked(row), same) {
                self.forks.add(process, top, true);
            }
        }
        Ok(())
    }

    /// Pins the process that has this PID now, if it is alive.
    fn pinned(&self, pid: Pid) -> Result<Option<Pinned>> {
        let pinned = Pinned::open(&self.core.proc, self.core.place(), pid)?;
        Ok(pinned.filter(Pinned::has_its_pid))
    }

    fn record_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut found: Vec<(Arc<Entry>, Pinned)> = Vec::new();
        for noted in self.forks.due(now) {
            let pid = noted.process.pid;
            // A process that cannot be examined is left to the health pass.
            let pinned = self.pinned(pid).ok().flatten();
            let Some(pinned) = pinned.filter(|pinned| was_forked_at(pinned, noted.process.at))
            else {
                self.forks.forget(pid);
                continue;
            };
            if noted.done {
                continue;
            }
            match self.root(&noted) {
                Some(entry) => match self.tie(&entry, &pinned) {
                    Tie::Session => {}
                    Tie::Token => self.forks.watch(pid, now),
                    Tie::None => {
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

    /// Returns the evidence by which an end would find it: the check here is the same as there (`ending::look`).
    fn tie(&self, root: &Entry, pinned: &Pinned) -> Tie {
        let (root, pid) = (&root.root, pinned.identity.pid);
        if root.session.map(Pid::get) == Some(pinned.stat.session) {
            return Tie::Session;
        }
        let carries = root.token.is_some_and(|token| {
            let carried = self.core.proc.tokens(pid);
            carried.is_some_and(|carried| carried.contains(&token))
        });
        let counts = carries && self.core.proc.uid(pid).ok().flatten() == Some(root.uid);
        if counts { Tie::Token } else { Tie::None }
    }

    /// Returns the root that it is below, once that is a root.
    fn root(&self, noted: &Noted) -> Option<Arc<Entry>> {
        let entries = lock(&self.core.entries);
        let root = entries.values().find(|entry| {
            let identity = entry.root.identity;
            identity.pid == noted.top.pid && was_started_at(identity.start_tick, noted.top.at)
        });
        root.filter(|entry| is_session_root(entry)).cloned()
    }

    fn record(&self, found: &[(Arc<Entry>, Pinned)]) -> Result<()> {
        let core = self.core;
        // A health pass would record the same.
        let _pass = core.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = core.store.live_of(core.instance.id)?;
        let known: HashSet<(Pid, u64)> =
            rows.iter().map(|row| (row.identity.pid, row.identity.start_tick)).collect();
        let unknown = found.iter().filter(|(_, pinned)| {
            !known.contains(&(pinned.identity.pid, pinned.identity.start_tick))
        });
        let new: Vec<NewProcess> = unknown
            .filter(|(entry, _)| !entry.is_being_ended() && !self.protects(entry))
            .filter_map(|(entry, pinned)| {
                let root = rows.iter().find(|row| row.id == entry.root.row)?;
                core.new_row(root, &Snapshot::default(), &pinned.stat, Evidence::ForkEvent)
            })
            .collect();
        if !new.is_empty() {
            core.store.admit(&core.place(), &new)?;
            core.notify_export();
        }
        Ok(())
    }

    /// Returns whether a process below this root may be protected: to check that takes a scan of the whole tree, which is left
    /// to the health pass.
    fn protects(&self, entry: &Entry) -> bool {
        !(self.core.options.protected.is_empty() && entry.strays.protected.is_empty())
    }

    fn is_idle(&self) -> bool {
        let mut state = lock(&self.core.forks.state);
        let wanted = state.wanted.is_some_and(|wanted| wanted.elapsed() < LINGER);
        let idle = !wanted && !self.core.has_session_roots();
        state.running = !idle;
        state.listens &= !idle;
        idle
    }
}

/// The evidence that ties a process to its root, apart from its parents.
enum Tie {
    Session,
    /// For as long as the token can be read, and the process has the root's UID.
    Token,
    None,
}

fn was_forked_at(pinned: &Pinned, at: u64) -> bool {
    was_started_at(pinned.stat.start_tick, at)
}

/// Returns whether the process that was started at this tick is the one that was reported at this time with the same PID. A
/// process that has the PID now and had been started by then had the PID then; one that got the PID later was started later.
fn was_started_at(start_tick: u64, at: u64) -> bool {
    let reported = Duration::from_nanos(at) + boot_minus_monotonic();
    reported.checked_sub(started(start_tick)).is_some_and(|after| after < REPORTED_WITHIN)
}

/// On the boot clock.
fn started(start_tick: u64) -> Duration {
    Duration::from_millis(start_tick.saturating_mul(1000 / TICKS_PER_SECOND))
}

fn since(at: u64) -> Duration {
    monotonic_clock().saturating_sub(Duration::from_nanos(at))
}
