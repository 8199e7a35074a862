//! Ends the processes of other instances as soon as those die.
//!
//! The kernel reports their deaths through a pidfd for each. A new instance is detected in the
//! ledger's folder ([`Folder`]), since each instance creates a lock file beside the ledger; so is
//! an exec that ends an instance, since it closes that file. An instance of another PID namespace
//! has no pidfd here, and is checked at intervals.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
};

use super::{
    orphans,
    watch_folder::{Change, Folder},
};
use crate::{
    error::{Error, Kind, Result},
    model::{InstanceId, Report},
    sys::{PidFd, Pinned, Probe, poll::timespec},
    tracker::{
        core::Core,
        runtime::{liveness::Liveness, other_instances},
    },
};

/// Interval of checks for changes that the kernel does not report.
pub(in crate::tracker) const CHECK_AGAIN: Duration = Duration::from_secs(5);
/// Interval at which the folder is listed while there is no inotify.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Interval of checks for a change that is expected soon and that the kernel does not report, for
/// at most [`CHECK_AGAIN`].
const CHECK_SOON: Duration = Duration::from_millis(5);

/// One cycle of a watch, in which it has checked all instances and made the necessary pass.
#[derive(Clone, Copy, Debug)]
pub struct WatchCycle<'a> {
    /// The number of live instances whose deaths the kernel will report.
    pub watched: usize,
    /// The report of a pass, if one was needed and found something.
    pub report: Option<&'a Report>,
    /// Whether an orphan pass is about to run, which may take as long as the graces of the trees
    /// that it ends. Another cycle, with the report, follows.
    pub begins_pass: bool,
}

/// Watches other instances; see [`Tracker::watch_cycles`](crate::Tracker::watch_cycles).
pub(in crate::tracker) fn watch_cycles(
    core: &Arc<Core>,
    stop: OwnedFd,
    interval: Duration,
    on_cycle: impl FnMut(&WatchCycle<'_>),
) -> Result<()> {
    let folder = Folder::watched(core.store.path());
    watch_by(core, folder, stop, interval, on_cycle)
}

/// Does the same by the names of changed files; see
/// [`Tracker::watch_named`](crate::Tracker::watch_named).
pub(in crate::tracker) fn watch_named(
    core: &Arc<Core>,
    names: OwnedFd,
    stop: OwnedFd,
    interval: Duration,
    on_cycle: impl FnMut(&WatchCycle<'_>),
) -> Result<()> {
    rustix::fs::fcntl_getfl(&names)
        .and_then(|flags| rustix::fs::fcntl_setfl(&names, flags | OFlags::NONBLOCK))
        .map_err(|error| Error::os("failed to set the pipe of names non-blocking", error))?;
    let folder = Folder::reported(core.store.path(), names);
    watch_by(core, folder, stop, interval, on_cycle)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the descriptor is the watch's own until it ends"
)]
fn watch_by(
    core: &Arc<Core>,
    folder: Folder,
    stop: OwnedFd,
    interval: Duration,
    mut on_cycle: impl FnMut(&WatchCycle<'_>),
) -> Result<()> {
    let mut watching = Watching::new(core, folder);
    loop {
        if let Err(error) = watching.refresh() {
            tracing::error!("failed to list the instances: {error}; retrying");
        }
        let watched = watching.others.len();
        let begins = || on_cycle(&WatchCycle { watched, report: None, begins_pass: true });
        let report = pass_where_needed(core, begins);
        on_cycle(&WatchCycle { watched, report: report.as_ref(), begins_pass: false });
        check_is_there(core)?;
        if watching.wait(&stop, interval.min(CHECK_AGAIN))? == Wake::Stop {
            return Ok(());
        }
    }
}
/// Runs an orphan pass if there is an instance that needs one; returns its report.
fn pass_where_needed(core: &Arc<Core>, begins: impl FnOnce()) -> Option<Report> {
    let needed = needs_a_pass(core).unwrap_or_else(|error| {
        tracing::error!("failed to judge the instances: {error}; retrying");
        false
    });
    if needed {
        begins();
    }
    let report = needed.then(|| orphans::reap_orphans(core))?;
    match report {
        Ok(report) => Some(report).filter(|it| !it.endings.is_empty() || !it.errors.is_empty()),
        Err(error) => {
            tracing::error!("the orphan pass failed: {error}; retrying");
            None
        }
    }
}

/// Fails if the ledger was removed or replaced. An open ledger stays usable without its name, but
/// programs that open the path later open another ledger.
fn check_is_there(core: &Core) -> Result<()> {
    let path = core.store.path();
    match std::fs::metadata(path) {
        Ok(file) if (file.dev(), file.ino()) == core.store.file() => Ok(()),
        // A file that cannot be examined now may still be there.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::new(
            Kind::NotFound,
            format!(
                "the ledger `{}` was removed or replaced while it was watched: start a new watch",
                path.display()
            ),
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wake {
    Stop,
    Check,
}

/// The result of a poll.
#[derive(Debug, Default)]
struct Ready {
    stop: bool,
    folder: bool,
    died: Vec<InstanceId>,
}

/// The instances that are watched.
struct Watching<'a> {
    core: &'a Core,
    folder: Folder,
    others: HashMap<InstanceId, Arc<PidFd>>,
    /// Lock files whose instances are not in the ledger yet, with the time when they were seen: the
    /// file is created before the row.
    expected: HashMap<OsString, Instant>,
    /// Instances that have died but do not count as dead yet, with the time of their death: a gated
    /// child has a copy of its host's lock until it dies by PDEATHSIG.
    undecided: HashMap<InstanceId, Instant>,
}

impl<'a> Watching<'a> {
    fn new(core: &'a Core, mut folder: Folder) -> Self {
        // An instance that is about to be recorded may have created its file before the first
        // listing.
        let expected = folder.list().into_iter().map(|name| (name, Instant::now())).collect();
        let (others, undecided) = (HashMap::new(), HashMap::new());
        Self { core, folder, others, expected, undecided }
    }

    /// Opens a pidfd for each live instance that has none yet.
    fn refresh(&mut self) -> Result<()> {
        let core = self.core;
        self.folder.refresh();
        if self.folder.is_listed() {
            self.list();
        }
        // After that time, the checks at intervals find the instance if it ever appears.
        self.expected.retain(|_, seen| seen.elapsed() < CHECK_AGAIN);
        let instances = core.store.instances_to_check()?;
        let open = |id| instances.iter().any(|it| it.id == id && it.stopped_at.is_none());
        self.undecided.retain(|&id, died| died.elapsed() < CHECK_AGAIN && open(id));
        // An instance that stopped may be in a process that is still alive.
        self.others.retain(|&id, _| open(id));
        for instance in instances {
            self.expected.remove(OsStr::new(&instance.lock_name));
            let is_new = instance.id != core.instance.id
                && instance.stopped_at.is_none()
                && !self.others.contains_key(&instance.id);
            if !is_new {
                continue;
            }
            if let Probe::Alive(pinned) =
                Pinned::probe(&core.proc, core.pid_scope(), &instance.identity)
            {
                self.others.insert(instance.id, pinned.into_fd());
            }
        }
        Ok(())
    }

    fn list(&mut self) {
        let new = self.folder.list();
        self.expected.extend(new.into_iter().map(|name| (name, Instant::now())));
    }

    /// Sleeps until there is something to check. Other files in the folder, such as an export, do
    /// not count.
    fn wait(&mut self, stop: &OwnedFd, interval: Duration) -> Result<Wake> {
        let nothing_soon = self.expected.is_empty() && self.undecided.is_empty();
        let rest = if self.folder.is_listed() { LIST_AGAIN } else { interval };
        let limit = if nothing_soon { rest.min(interval) } else { CHECK_SOON };
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ready { stop, folder, died } = self.poll(stop, left)?;
            if stop {
                return Ok(Wake::Stop);
            }
            let relevant = folder && self.read_folder();
            for id in &died {
                self.others.remove(id);
                self.undecided.insert(*id, Instant::now());
            }
            if relevant || !died.is_empty() || Instant::now() >= until {
                return Ok(Wake::Check);
            }
        }
    }

    fn poll(&self, stop: &OwnedFd, limit: Duration) -> Result<Ready> {
        let (ids, pidfds): (Vec<InstanceId>, Vec<&Arc<PidFd>>) =
            self.others.iter().map(|(id, fd)| (*id, fd)).unzip();
        // If there is no event source for the folder, `stop` is polled in its place.
        let folder = self.folder.fd();
        let mut fds = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(folder.unwrap_or(stop.as_fd()), PollFlags::IN),
        ];
        fds.extend(pidfds.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(Error::os("failed to wait for instances to die", error)),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let died = ids.into_iter().zip(&fds[2..]).filter(|(_, fd)| is_ready(fd));
        Ok(Ready {
            stop: is_ready(&fds[0]),
            folder: folder.is_some() && is_ready(&fds[1]),
            died: died.map(|(id, _)| id).collect(),
        })
    }

    /// Notes new lock files; returns whether there was a change that concerns the ledger.
    fn read_folder(&mut self) -> bool {
        let changes = self.folder.changes();
        for change in &changes {
            match change {
                Change::LockMade(name) => {
                    self.expected.insert(name.clone(), Instant::now());
                }
                Change::LockRemoved(name) => drop(self.expected.remove(name)),
                // An exec closes the lock of the image that it replaces, without a death.
                Change::LockClosed => {}
                // Names may have been lost.
                Change::Other => self.list(),
            }
        }
        !changes.is_empty() || self.folder.is_listed()
    }
}

/// Returns whether an instance died, or stopped and left processes. Other files in the folder need
/// no pass.
fn needs_a_pass(core: &Core) -> Result<bool> {
    Ok(other_instances::check_others(&core.store, &core.proc, &core.instance)?.iter().any(
        |(instance, life)| {
            matches!(life, Liveness::Dead(_))
                && (instance.stopped_at.is_none()
                    || core
                        .store
                        .live_of(instance.id)
                        .is_ok_and(|rows| rows.iter().any(|row| !row.spec.limits.survive)))
        },
    ))
}
