//! The host's handle on a keeper.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::epoll;

use super::{lock::lock, tracked::Entry};
use crate::{
    error::Result,
    identity::Identity,
    model::{EndReason, ExitStatus, ProcessId, task_text},
    sys::{Pinned, Probe, keeper::KeeperClient},
    tracker::{
        core::Core,
        end::{root_exit::tree_of, run::Tree, spared::leave_of},
    },
};

/// A keeper below which nothing is left exits within a millisecond.
const PART_LIMIT: Duration = Duration::from_millis(50);
/// A keeper that was asked to exit does so as soon as it is scheduled.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// A keeper that ends a tree takes the grace, which is restarted for at most [`GRACE_CAP`], and this time for its kills.
const END_LIMIT: Duration = Duration::from_secs(10);
const GRACE_CAP: Duration = Duration::from_secs(2);

/// A keeper, until the host parts with it.
#[derive(Debug)]
pub(in crate::tracker) struct Kept(Mutex<State>);

/// What a keeper has reported of its program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Word {
    Ended(ExitStatus),
    /// It is alive, and has not reported anything yet.
    NotYet,
    /// It has exited without a report.
    Gone,
}

#[derive(Debug)]
struct State {
    /// `None` once it has exited, or was released.
    client: Option<KeeperClient>,
    reported: Option<ExitStatus>,
}

impl Kept {
    pub(in crate::tracker) fn new(client: KeeperClient) -> Self {
        Self(Mutex::new(State { client: Some(client), reported: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how the program ended, if its keeper reports it before `deadline`.
    pub(in crate::tracker) fn word(&self, deadline: Instant) -> Word {
        let mut state = self.state();
        if state.reported.is_none()
            && let Some(client) = &state.client
        {
            // The keeper reports it as soon as it is scheduled and could reap the program. Its last message may still be in the
            // socket.
            let dead = client.is_dead();
            let limit = deadline.saturating_duration_since(Instant::now());
            state.reported = client.status(if dead { Duration::ZERO } else { limit });
            if state.reported.is_none() && !dead {
                // The program may have stopped its keeper before it ended; nothing else would resume that.
                state.client.iter().for_each(KeeperClient::resume);
                return Word::NotYet;
            }
        }
        state.reported.map_or(Word::Gone, Word::Ended)
    }

    fn take(&self) -> Option<KeeperClient> {
        self.state().client.take()
    }

    /// Notes that a keeper exited before the host parted with it: `true` once.
    fn has_gone(&self) -> bool {
        let mut state = self.state();
        let Some(client) = state.client.take_if(|client| client.is_dead()) else { return false };
        // Its last message may still be in the socket.
        state.reported = state.reported.or_else(|| client.status(Duration::ZERO));
        drop(state);
        let _ = client.dismiss(Duration::ZERO);
        true
    }

    /// Passes the keeper's pidfd to `watch`.
    fn watched<T>(&self, watch: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.state().client.as_ref().map(|client| watch(client.as_fd()))
    }
}

/// Asks a keeper to leave everything below it running, and waits until it has exited.
fn send_away(client: KeeperClient) {
    client.leave();
    if let Some(client) = client.dismiss(LEAVE_LIMIT) {
        client.kill();
    }
}

/// Marks the epoll data of a keeper, beside the row of its program; rows count from 1 and never reach this bit.
const KEEPER: u64 = 1 << 63;

/// Returns the row of the program that a keeper's event is about.
pub(in crate::tracker) fn keeper_of(data: u64) -> Option<ProcessId> {
    (data & KEEPER != 0).then(|| ProcessId((data & !KEEPER).cast_signed()))
}

impl Core {
    /// Watches the keeper of a tracked program.
    pub(in crate::tracker) fn watch_keeper(&self, entry: &Entry) {
        let Some(kept) = &entry.kept else { return };
        let data = epoll::EventData::new_u64(entry.root.row.0.cast_unsigned() | KEEPER);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        // A failure leaves it to the health pass.
        let _ = kept.watched(|fd| epoll::add(&self.epoll, fd, data, flags));
    }

    /// Logs that a keeper was killed while its program is alive. The program continues: its end is detected by its pidfd, and
    /// its strays by session, token and recorded descendants.
    pub(in crate::tracker) fn notice_keeper(entry: &Entry) {
        if !entry.kept.as_deref().is_some_and(Kept::has_gone) {
            return;
        }
        let lives = entry.pidfd.as_ref().is_some_and(|fd| !fd.is_dead().unwrap_or(true));
        if lives && !entry.is_being_ended() {
            tracing::error!(
                "the keeper of process {} for task {} was killed: the process continues, and is held by its session, its \
                 token and recorded descendants only",
                entry.root.identity.pid,
                task_text(entry.root.task.as_ref()),
            );
        }
    }

    /// Parts with the keeper of a program that has ended, or is not ours any more. `leave`: the processes below it are left
    /// running.
    ///
    /// A keeper exits by itself when nothing is left below it. Otherwise this host ends the processes it finds; those that it
    /// does not find are ended by the keeper, which is waited for. It leaves only processes that are spared on purpose, such as
    /// those of another task: so a keeper never ends what its living host has decided to spare.
    pub(in crate::tracker) fn part_with_keeper(&self, entry: &Arc<Entry>, leave: bool) {
        self.bury_departed();
        let Some(client) = entry.kept.as_deref().and_then(Kept::take) else { return };
        if leave {
            return send_away(client);
        }
        if client.wait_dead(PART_LIMIT) {
            let _ = client.dismiss(Duration::ZERO);
        } else if self.is_of_another(entry.root.row) {
            // Another instance is ending the tree. The keeper holds it together until that is done.
            lock(&self.departing).push((Arc::clone(entry), client));
        } else {
            self.end_unseen(entry);
            self.dismiss_keeper(entry, client);
        }
    }

    /// Lets a keeper end the processes left below it, unless they are spared on purpose.
    fn dismiss_keeper(&self, entry: &Entry, client: KeeperClient) {
        if client.wait_dead(PART_LIMIT) {
            let _ = client.dismiss(Duration::ZERO);
            return;
        }
        if self.is_released(entry.root.row) || self.spares_below(entry, &client) {
            return send_away(client);
        }
        let grace = entry.root.limits.grace.max(GRACE_CAP);
        match client.dismiss(grace + END_LIMIT) {
            None => self.record_ended_by_keeper(&entry.root),
            Some(client) => {
                tracing::error!(
                    "the keeper of task {} does not end its remaining processes, killing it",
                    task_text(entry.root.task.as_ref())
                );
                client.kill();
            }
        }
    }

    /// Returns whether a process that is spared on purpose is alive below a keeper: a kept part of its tree, another task, or
    /// another instance. If that is unknown, nothing is ended on a guess.
    fn spares_below(&self, entry: &Entry, client: &KeeperClient) -> bool {
        let root = entry.root.row;
        let looked = || -> Result<bool> {
            let kept = self.store.below(&[root])?.into_iter().flat_map(|it| it.kept);
            let instances = self.store.instances_to_judge()?.into_iter().map(|it| it.identity);
            // Rows of this tree may have another owner: the instance that is, or was, ending it.
            let others = self.store.live()?.into_iter();
            let others = others.filter(|row| row.root.unwrap_or(row.id) != root);
            let spared: Vec<Identity> =
                kept.chain(instances).chain(others.map(|row| row.identity)).collect();
            let below = self.proc.snapshot()?.below(client.pid());
            let lives = |it: &Identity| {
                matches!(Pinned::probe(&self.proc, self.place(), it), Probe::Alive(_))
            };
            Ok(spared.iter().any(|it| below.contains(&it.pid) && lives(it)))
        };
        looked().unwrap_or_else(|error| {
            tracing::error!(
                "failed to determine which processes a task may leave: {error}; leaving them running"
            );
            true
        })
    }

    fn end_unseen(&self, entry: &Entry) {
        match self.store.below(&[entry.root.row]) {
            Ok(below) => {
                let kept = below.into_iter().flat_map(|below| below.kept).collect();
                let leave = leave_of(entry, kept);
                self.end_strays_of(vec![Tree { leave, ..tree_of(entry, None) }]);
            }
            // It is unknown which processes to leave alone.
            Err(error) => {
                tracing::error!("failed to search for further processes that a task left: {error}");
            }
        }
    }

    /// Parts with the keepers of trees that another instance was ending, once it has done so.
    pub(in crate::tracker) fn bury_departed(&self) {
        let departing = std::mem::take(&mut *lock(&self.departing));
        for (entry, client) in departing {
            if client.is_dead() {
                let _ = client.dismiss(Duration::ZERO);
            } else if self.is_of_another(entry.root.row) {
                lock(&self.departing).push((entry, client));
            } else {
                self.dismiss_keeper(&entry, client);
            }
        }
    }

    /// Does the same when this host stops: after that, nothing holds these trees together.
    pub(in crate::tracker) fn bury_last(&self) {
        let departing = std::mem::take(&mut *lock(&self.departing));
        for (entry, client) in departing {
            self.dismiss_keeper(&entry, client);
        }
    }

    /// Returns whether a row that we held is being ended by another instance.
    fn is_of_another(&self, row: ProcessId) -> bool {
        let record = self.store.process(row).ok().flatten();
        record.and_then(|record| record.claimed_by).is_some_and(|by| by != self.instance.id)
    }

    /// Returns whether the processes that a program has left need no handling any more: its row was released, or closed by a
    /// user.
    pub(in crate::tracker) fn is_released(&self, row: ProcessId) -> bool {
        let record = self.store.process(row).ok().flatten();
        record
            .and_then(|record| record.end_reason)
            .is_some_and(|reason| matches!(reason, EndReason::Released | EndReason::Forgotten))
    }
}
