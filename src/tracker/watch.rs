//! Reaping for other instances, the moment they die.
//!
//! Their deaths come from the kernel, by a pidfd each; that a new one has opened the ledger comes from inotify, since each
//! makes a lock file beside it. An instance of another PID namespace has no pidfd here: it is looked at again at intervals.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
    io::Errno,
};

use super::{Tracker, liveness::Life, shared::Shared};
use crate::{
    error::{Error, Result},
    os::{PidFd, Pinned, Probe, pidfd::timespec},
    record::{InstanceId, Report},
};

/// What the kernel does not tell is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A gated child has copies of its dead host's descriptors until PDEATHSIG strikes: the lock is asked again this soon.
const LOCK_PAUSE: Duration = Duration::from_millis(1);
const LOCK_ASKS: u32 = 200;

impl Tracker {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the descriptor is the watch's own until it ends"
    )]
    /// Ends what dead instances leave as soon as they die, until `stop` becomes readable or is closed by its other end.
    /// `on_report` gets the report of every pass that found something.
    ///
    /// # Errors
    ///
    /// When the ledger's folder cannot be watched. What goes wrong in one pass is logged, and the watch goes on.
    pub fn watch(&self, stop: OwnedFd, mut on_report: impl FnMut(&Report)) -> Result<()> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let folder = watch_folder(shared)?;
        let mut others: HashMap<InstanceId, Arc<PidFd>> = HashMap::new();
        loop {
            if let Err(error) = refresh(shared, &mut others) {
                tracing::error!("failed to list the instances: {error}; it is tried again");
            }
            let died = match wait(&stop, &folder, &others)? {
                Wake::Stop => return Ok(()),
                Wake::Died(died) => died,
                Wake::LookAgain => Vec::new(),
            };
            for id in &died {
                others.remove(id);
                wait_for_lock(shared, *id);
            }
            let needed = needs_a_pass(shared).unwrap_or_else(|error| {
                tracing::error!("failed to judge the instances: {error}; it is tried again");
                false
            });
            if needed {
                match shared.reap_orphans() {
                    Ok(report) if !report.endings.is_empty() || !report.errors.is_empty() => {
                        on_report(&report);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!("the orphan pass failed: {error}; it is tried again");
                    }
                }
            }
        }
    }
}

enum Wake {
    Stop,
    Died(Vec<InstanceId>),
    LookAgain,
}

fn watch_folder(shared: &Shared) -> Result<OwnedFd> {
    let folder = shared.store.path().parent().unwrap_or_else(|| shared.store.path());
    let failed = |error: Errno| Error::os(format!("failed to watch `{}`", folder.display()), error);
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(failed)?;
    let events =
        inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, folder, events).map_err(failed)?;
    Ok(fd)
}

/// Opens a pidfd for each living instance that has none yet.
fn refresh(shared: &Shared, others: &mut HashMap<InstanceId, Arc<PidFd>>) -> Result<()> {
    for instance in shared.store.instances_to_judge()? {
        let is_new = instance.id != shared.instance
            && instance.stopped_at.is_none()
            && !others.contains_key(&instance.id);
        if !is_new {
            continue;
        }
        if let Probe::Alive(pinned) =
            Pinned::probe(&shared.proc, shared.place(), &instance.identity)
        {
            others.insert(instance.id, pinned.into_fd());
        }
    }
    Ok(())
}

fn wait(
    stop: &OwnedFd,
    folder: &OwnedFd,
    others: &HashMap<InstanceId, Arc<PidFd>>,
) -> Result<Wake> {
    let ids: Vec<InstanceId> = others.keys().copied().collect();
    let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(folder, PollFlags::IN)];
    fds.extend(
        ids.iter()
            .filter_map(|id| others.get(id))
            .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
    );
    match poll(&mut fds, Some(&timespec(LOOK_AGAIN))) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(Error::os("failed to wait for instances to die", error)),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    if ready[0] {
        return Ok(Wake::Stop);
    }
    if ready[1] {
        drain(folder);
    }
    let died: Vec<InstanceId> =
        ids.iter().zip(&ready[2..]).filter(|(_, dead)| **dead).map(|(id, _)| *id).collect();
    Ok(if died.is_empty() { Wake::LookAgain } else { Wake::Died(died) })
}

fn drain(folder: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    while matches!(rustix::io::read(folder, &mut buffer), Ok(1..)) {}
}

fn wait_for_lock(shared: &Shared, id: InstanceId) {
    for _ in 0..LOCK_ASKS {
        let judged = shared.judge_others().unwrap_or_default();
        match judged.iter().find(|(instance, _)| instance.id == id) {
            Some((_, Life::Alive)) => std::thread::sleep(LOCK_PAUSE),
            _ => return,
        }
    }
}

/// A pass is for instances that died, or stopped and left something: not for every file in the folder.
fn needs_a_pass(shared: &Shared) -> Result<bool> {
    Ok(shared.judge_others()?.iter().any(|(instance, life)| {
        matches!(life, Life::Dead(_))
            && (instance.stopped_at.is_none()
                || shared
                    .store
                    .live_of(instance.id)
                    .is_ok_and(|rows| rows.iter().any(|row| !row.limits.survive)))
    }))
}
