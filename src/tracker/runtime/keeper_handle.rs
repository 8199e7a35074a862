//! The host's handle to a keeper.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::sys::{Death, keeper::KeeperClient};

/// A keeper, until the host dismisses it. Taken by the thread that releases the program; read by
/// any thread that waits for the program.
#[derive(Debug)]
pub(in crate::tracker) struct KeeperHandle(Mutex<State>);

/// The report of a keeper on its program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum KeeperReport {
    Ended(Death),
    /// It is alive, and has not reported anything yet.
    NotYet,
    /// It has exited without a report.
    Gone,
}

#[derive(Debug)]
struct State {
    /// `None` once it has exited, or was released.
    client: Option<KeeperClient>,
    reported: Option<Death>,
}

impl KeeperHandle {
    pub(in crate::tracker) fn new(client: KeeperClient) -> Self {
        Self(Mutex::new(State { client: Some(client), reported: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how the program ended, if its keeper reports it before `deadline`.
    pub(in crate::tracker) fn report(&self, deadline: Instant) -> KeeperReport {
        let mut state = self.state();
        if state.reported.is_none()
            && let Some(client) = &state.client
        {
            // The keeper reports the end as soon as it is scheduled and has reaped the program. Its
            // last message may still be in the socket.
            let dead = client.is_dead();
            let limit = deadline.saturating_duration_since(Instant::now());
            state.reported = client.death(if dead { Duration::ZERO } else { limit });
            if state.reported.is_none() && !dead {
                // The program may have stopped its keeper before it ended, and nothing else would
                // resume the keeper.
                state.client.iter().for_each(KeeperClient::resume);
                return KeeperReport::NotYet;
            }
        }
        state.reported.map_or(KeeperReport::Gone, KeeperReport::Ended)
    }

    pub(in crate::tracker) fn take(&self) -> Option<KeeperClient> {
        self.state().client.take()
    }

    /// Notes that a keeper exited before the host dismissed it; returns `true` once.
    pub(in crate::tracker) fn has_gone(&self) -> bool {
        let mut state = self.state();
        let Some(client) = state.client.take_if(|client| client.is_dead()) else { return false };
        // Its last message may still be in the socket.
        state.reported = state.reported.or_else(|| client.death(Duration::ZERO));
        drop(state);
        let _ = client.dismiss(Duration::ZERO);
        true
    }

    /// Passes the keeper's pidfd to `watch`.
    pub(in crate::tracker) fn watched<T>(
        &self,
        watch: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Option<T> {
        self.state().client.as_ref().map(|client| watch(client.as_fd()))
    }
}
