//! Waits for the end of a process of any instance, without being its parent and without changing
//! anything.
//!
//! The process is pinned by a pidfd, and the files of the ledger are watched by inotify(7): another
//! process records the end, and may close the row while the process is still running. Both wake the
//! waiter; without inotify the row is read ten times a second.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    ledger::Ledger,
    writes::{SETTLES, UNWATCHED, WATCHED, Writes},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Observer, ProcessId, ProcessRecord},
    store::Store,
    sys::{Pinned, Probe, Proc, current_pid_scope, poll::poll_within},
    tracker::runtime::liveness::{Liveness, LivenessCheck},
};

/// How long to wait for an instance that cleans up to record the end of a dead process whose owner
/// is dead as well.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);

impl Ledger {
    /// Waits until a process has ended and its end is recorded, and returns its record; `None` if
    /// that does not happen within `timeout`.
    ///
    /// Any process may wait, whichever instance started the program. If the owner of a process is
    /// dead and the process is alive, this continues to wait: the process may survive, or be ended
    /// as an orphan.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{ExitStatus, Job};
    ///
    /// let id = tracker.spawn(Job::new("task-42", "false"))?.id();
    /// let record = tracker.ledger().wait(id, None)?.expect("it has ended");
    /// assert_eq!(record.life.end().map(|end| end.status), Some(ExitStatus::Exited(1)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) if the ledger has no such row;
    /// [`is_unknown`](Error::is_unknown) if the process has ended and its owner, which would have
    /// recorded how, is dead; if the ledger or `/proc` cannot be read.
    pub fn wait(&self, id: ProcessId, timeout: Option<Duration>) -> Result<Option<ProcessRecord>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let store = self.store();
        let proc = Proc::open()?;
        let here = current_pid_scope()?;
        // Created before the row is read, so that no change is missed.
        let writes = Writes::of(store);
        let mut pinned = None;
        let mut unrecorded = None;
        loop {
            let row = store.process(id)?;
            let row = row.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("the ledger has no process {}", id.0))
            })?;
            if row.life.end().is_some() {
                return Ok(Some(row));
            }
            if pinned.is_none()
                && let Probe::Alive(found) = Pinned::probe(&proc, here, &row.spec.identity)
            {
                pinned = Some(found);
            }
            let lives = pinned.as_ref().is_some_and(|pinned| !pinned.is_dead().unwrap_or(false));
            let may_live = lives
                || matches!(Pinned::probe(&proc, here, &row.spec.identity), Probe::Unknown(_));
            if !may_live {
                let since = *unrecorded.get_or_insert_with(Instant::now);
                if since.elapsed() > RECORDED_WITHIN && is_owner_dead(store, &proc, &row)? {
                    return Err(Error::new(
                        Kind::Unknown,
                        format!(
                            "process {} has ended, and its owner is dead: how it ended is unknown",
                            row.pid()
                        ),
                    ));
                }
            }
            if left() == Some(Duration::ZERO) {
                return Ok(None);
            }
            let pause = if may_live && writes.is_some() { WATCHED } else { UNWATCHED };
            let pause = left().map_or(pause, |left| left.min(pause));
            let pidfd = pinned.as_ref().filter(|_| lives);
            wait_for_a_change(pidfd, writes.as_ref(), pause)?;
        }
    }
}

fn is_owner_dead(store: &Store, proc: &Proc, row: &ProcessRecord) -> Result<bool> {
    let all = store.instances_to_check()?;
    let owner = all.iter().find(|instance| instance.id == row.owner);
    let observer = Observer { scope: current_pid_scope()?, uid: store.owner_uid() };
    let liveness = LivenessCheck::new(store, proc, observer.scope);
    Ok(owner.is_none_or(|owner| matches!(liveness.of(owner, &all), Liveness::Dead(_))))
}

/// Waits until the process has ended or the ledger was written, at most `limit`.
fn wait_for_a_change(
    pinned: Option<&Pinned>,
    writes: Option<&Writes>,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let fds = [pinned.map(|pinned| pinned.fd().as_fd()), writes.map(AsFd::as_fd)];
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = poll_within(&mut fds, Some(left))
            .map_err(|error| Error::os("failed to wait for a process", error))?;
        let has_ended = pinned.is_some() && fds[0].revents().contains(PollFlags::IN);
        if ready == 0 || has_ended || writes.is_some_and(Writes::take) {
            if ready > 0 && !has_ended {
                std::thread::sleep(SETTLES.min(left));
            }
            return Ok(());
        }
    }
}
