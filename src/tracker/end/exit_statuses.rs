//! Exit statuses of dead processes that are not available yet.
//!
//! "Not yet" differs from "reaped by another process". A tracer (strace, gdb) takes precedence over the parent of a process
//! that it traces: until it has reaped that process, or detached, waitid(2) reports nothing to the parent (ptrace(2)). A keeper
//! first has to be scheduled. The kernel reports the status of a process that is not our child only once its parent has reaped
//! it (`PIDFD_GET_INFO`, Linux 6.15).
//!
//! 1. The end is not recorded at once: the status is queried repeatedly for [`STATUS_PATIENCE`] ([`Waiting`]). This delays
//!    neither the handling of other processes' deaths nor a wait for one of them.
//! 2. A tracer may hang. Then the end is recorded without the status, so that what the root has left is ended; the pidfd is
//!    kept, and the status is written to the row once it is available ([`Unfinished`]). Callers that wait for the process get
//!    it then, too.
//! 3. If the host stops before that, it logs which statuses are lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{claims::CLAIM_PAUSE, root_exit::Dead};
use crate::{
    model::{ExitStatus, task_text},
    sys::PidFd,
    tracker::{
        core::Core,
        runtime::{
            lock::lock,
            tracked::{Entry, Learned, REAPED_BY_PARENT},
        },
    },
};

/// How long an end waits for a status that is certain to come: strace and gdb release a process within milliseconds.
pub(in crate::tracker) const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two queries for such a status.
pub(in crate::tracker) const STATUS_PAUSE: Duration = Duration::from_millis(5);
/// Pause between two queries after [`STATUS_PATIENCE`] has passed: querying one process costs a system call or two.
const LATE_PAUSE: Duration = Duration::from_millis(250);
/// How long a waiter gives the parent of a process that is not our child: it reaps the process as soon as it is scheduled.
pub(in crate::tracker) const REAPED_WITHIN: Duration = Duration::from_millis(100);
/// Limit on waiting for the parent of a process that is not our child, since it may never reap it.
const UNREAPED_LIMIT: Duration = Duration::from_secs(10);

/// A dead process whose status is not available yet, and since when that has been the case.
pub(in crate::tracker) type Waiting = (Dead, Instant);

/// A dead process whose end is recorded, but which is not reaped yet or whose status is unknown.
#[derive(Debug)]
pub(in crate::tracker) struct Unfinished {
    entry: Arc<Entry>,
    pidfd: Arc<PidFd>,
    since: Instant,
}

impl Core {
    /// Returns the status of a dead process; `None` while it is worth waiting for. After that its end is recorded without a
    /// status.
    pub(in crate::tracker) fn status_or_patience(
        &self,
        (entry, pidfd): &Dead,
        since: Instant,
        deadline: Instant,
    ) -> Option<ExitStatus> {
        let patient = match entry.learn_status(pidfd, deadline) {
            Learned::Status(status) => return Some(status),
            Learned::NotYet => true,
            Learned::Unreaped => self.is_traced(entry),
        };
        if patient && since.elapsed() < STATUS_PATIENCE {
            return None;
        }
        if patient {
            self.say_late(entry);
        }
        entry.mark_dead();
        Some(ExitStatus::Unobserved)
    }

    pub(in crate::tracker) fn is_traced(&self, entry: &Entry) -> bool {
        self.proc.tracer(entry.root.identity.pid).is_some()
    }

    fn say_late(&self, entry: &Entry) {
        let pid = entry.root.identity.pid;
        let task = task_text(entry.root.task.as_ref());
        let why = match self.proc.tracer(pid) {
            Some(tracer) => format!("process {tracer}, which traces it, has not released it"),
            None => "its keeper has not reported how".into(),
        };
        tracing::warn!(
            "process {pid} for task {task} has ended, but {why}: its exit status will be recorded once it is available"
        );
    }

    /// Waits for statuses that were not available at once, or hands them to the monitor.
    pub(in crate::tracker) fn wait_for_statuses(self: &Arc<Self>, mut waiting: Vec<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        if self.is_monitoring() {
            lock(&self.waiting).extend(waiting);
            return self.wake_monitor();
        }
        while !waiting.is_empty() {
            std::thread::sleep(STATUS_PAUSE);
            waiting = self.settle_known(waiting);
        }
    }

    /// Repeats, for the monitor, all checks that cannot be awaited on a file descriptor.
    pub(in crate::tracker) fn look_again(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        let waiting = self.settle_known(waiting);
        lock(&self.waiting).extend(waiting);
        self.settle_claimed(&[]);
        self.finish_late();
    }

    /// Returns how soon the monitor has to check again; `None` while nothing is pending.
    pub(in crate::tracker) fn looks_again_in(&self) -> Option<Duration> {
        let waits = (!lock(&self.waiting).is_empty()).then_some(STATUS_PAUSE);
        let claimed = (!lock(&self.claimed).is_empty()).then_some(CLAIM_PAUSE);
        let late = (!lock(&self.unfinished).is_empty()).then_some(LATE_PAUSE);
        [waits, claimed, late].into_iter().flatten().min()
    }

    /// Waits, after the monitor has stopped, for what the monitor was waiting for, and as long as the monitor would have
    /// waited.
    pub(in crate::tracker) fn settle_waiting(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        self.wait_for_statuses(waiting);
    }

    /// Learns the status of a root that was ended here, or goes on without it; the trees of a call share the time since it
    /// `began`.
    pub(in crate::tracker) fn learn_or_go_on(
        &self,
        entry: &Arc<Entry>,
        pidfd: &Arc<PidFd>,
        began: Instant,
    ) {
        let dead = (Arc::clone(entry), Arc::clone(pidfd));
        let deadline = began + REAPED_BY_PARENT;
        while self.status_or_patience(&dead, began, deadline).is_none() {
            std::thread::sleep(STATUS_PAUSE);
        }
    }

    /// Reaps a dead child, and records its status where its row has none; now, or later if that is not possible yet.
    pub(in crate::tracker) fn finish_later(&self, entry: &Arc<Entry>, pidfd: Arc<PidFd>) {
        let unfinished = Unfinished { entry: Arc::clone(entry), pidfd, since: Instant::now() };
        if !self.finish(&unfinished) {
            lock(&self.unfinished).push(unfinished);
            if self.is_monitoring() {
                self.wake_monitor();
            }
        }
    }

    /// Retries the processes that could not be finished.
    pub(in crate::tracker) fn finish_late(&self) {
        let late = std::mem::take(&mut *lock(&self.unfinished));
        let late: Vec<Unfinished> = late.into_iter().filter(|late| !self.finish(late)).collect();
        lock(&self.unfinished).extend(late);
    }

    /// Takes the remaining steps for a dead process; returns whether nothing is left to do for it.
    fn finish(&self, Unfinished { entry, pidfd, since }: &Unfinished) -> bool {
        // 1. The status, for callers that wait for the process.
        let status = match entry.learn_status(pidfd, Instant::now()) {
            Learned::Status(status) => status,
            Learned::NotYet => return false,
            Learned::Unreaped if since.elapsed() < UNREAPED_LIMIT || self.is_traced(entry) => {
                return false;
            }
            Learned::Unreaped => entry.publish(ExitStatus::Unobserved),
        };
        // 2. Its row, before the zombie is reaped: if we die in between, nothing in the ledger becomes less accurate.
        if entry.lacks_status() {
            if let Err(error) = self.store.note_status(entry.root.row, self.instance.id, status) {
                tracing::debug!("{error}; will be retried");
                return false;
            }
            entry.has_noted_status();
        }
        // 3. The keeper, which was left in place because it reports the status.
        if entry.kept.is_some() && entry.is_over() {
            let leave = entry.strays.keep || self.is_released(entry.root.row);
            self.part_with_keeper(entry, leave);
        }
        // 4. The zombie. Where a tracer holds it, the tracer has precedence.
        !(entry.child && matches!(pidfd.child_status(true), Ok(None)))
    }

    /// Logs, when a host stops, which statuses are lost.
    pub(in crate::tracker) fn say_lost(&self) {
        self.finish_late();
        for late in std::mem::take(&mut *lock(&self.unfinished)) {
            if late.entry.lacks_status() {
                tracing::error!(
                    "the exit status of process {} for task {} is lost: it was not available before this program stopped",
                    late.entry.root.identity.pid,
                    task_text(late.entry.root.task.as_ref()),
                );
            }
            self.part_with_keeper(&late.entry, true);
        }
    }
}
