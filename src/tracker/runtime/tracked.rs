//! The data that a tracker keeps in memory for each of its processes.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::cause::Cause;
use super::keeper_handle::{KeeperHandle, KeeperReport};
use crate::{
    identity::{Identity, Pid, PidScope},
    model::{
        Cgroup, Containment, EndPlan, EndReason, ExitStatus, Justification, Limits, Origin,
        ProcessId, ProcessRecord, ProcessSpec, Rule, TaskId, task_text,
    },
    policy::limits,
    sys::{PidFd, Pinned, Probe, Proc, boot_minus_monotonic},
};

/// How long a batch of ends waits for the status of a process that is not our child, which the
/// kernel reports only after its parent has reaped it. After that the row says `unobserved`.
pub(in crate::tracker) const REAPED_BY_PARENT: Duration = Duration::from_millis(20);

/// A recorded root, with the data for ending it and waiting for it.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Root {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) task: Option<TaskId>,
    pub(in crate::tracker) identity: Identity,
    pub(in crate::tracker) token: Option<Uuid>,
    pub(in crate::tracker) uid: u32,
    pub(in crate::tracker) session: Option<Pid>,
    pub(in crate::tracker) cgroup: Option<Cgroup>,
    /// The keeper that contains its tree, if one does.
    pub(in crate::tracker) keeper: Option<Identity>,
    pub(in crate::tracker) origin: Origin,
    pub(in crate::tracker) containment: Containment,
    pub(in crate::tracker) limits: Limits,
    pub(in crate::tracker) end_plan: EndPlan,
    pub(in crate::tracker) command: CompactCommand,
    /// Whether the arguments of its descendants may be recorded.
    pub(in crate::tracker) arguments: bool,
}

/// Program and arguments in one allocation, each terminated by NUL, which no argument can contain.
/// There is one in memory for each tracked process.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct CompactCommand(Box<str>);

impl CompactCommand {
    pub(in crate::tracker) fn new(words: &[String]) -> Self {
        let ended = words.iter().flat_map(|word| [word.as_str(), "\0"]);
        Self(ended.collect::<String>().into())
    }

    pub(in crate::tracker) fn to_vec(&self) -> Vec<String> {
        self.0.split_terminator('\0').map(str::to_owned).collect()
    }
}

impl Root {
    /// Returns how long it has run, measured in start ticks, since setting the wall clock must not
    /// end a process. The result is a tick less than the time since the start tick, so that a limit
    /// never applies early.
    pub(in crate::tracker) fn age(&self) -> Duration {
        crate::sys::proc::age(self.identity.start_tick).saturating_sub(crate::sys::proc::TICK)
    }

    /// Returns the time between the first signal to its tree and SIGKILL.
    pub(in crate::tracker) fn asking_time(&self) -> Duration {
        self.end_plan.asking_time(self.limits.grace)
    }
}

impl Root {
    pub(in crate::tracker) fn recorded(
        row: ProcessId,
        spec: &ProcessSpec,
        arguments: bool,
    ) -> Self {
        Self {
            row,
            task: spec.task_id.clone(),
            identity: spec.identity,
            token: spec.token,
            uid: spec.uid,
            session: spec.session,
            cgroup: spec.cgroup.clone(),
            keeper: spec.keeper,
            origin: spec.origin,
            containment: spec.containment,
            limits: spec.limits,
            end_plan: spec.end_plan.clone(),
            command: CompactCommand::new(&spec.command),
            arguments,
        }
    }
}

/// Returns whether the arguments of a recorded root's descendants may be recorded. A row does not
/// show whether its root had no arguments or whether they must not be disclosed; a row without
/// arguments is treated as the latter.
pub(in crate::tracker) fn may_record_arguments(command: &[String]) -> bool {
    command.len() != 1
}

impl From<&ProcessRecord> for Root {
    fn from(record: &ProcessRecord) -> Self {
        Self::recorded(record.id, &record.spec, may_record_arguments(&record.spec.command))
    }
}

/// The processes that a root may leave behind.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct Strays {
    /// Whether all processes are left if the root ends by itself.
    pub(in crate::tracker) keep: bool,
    /// Programs with these names, with their descendants, are left whenever the tree is ended.
    pub(in crate::tracker) protected: Arc<[String]>,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that become true one after the other")]
struct Progress {
    status: Option<ExitStatus>,
    /// Whether a thread is recording its end, or ending it; no other thread may start to.
    busy: bool,
    /// Whether its end is in the ledger.
    recorded: bool,
    /// Whether an attempt to end it was given up; the health pass makes the next one.
    given_up: bool,
    /// Whether the processes that it left have been handled as well, so that no thread is handling
    /// the tree any more.
    over: bool,
    /// Whether it is known to be dead, even if its status is not known yet.
    dead: bool,
    /// Whether its end was recorded before its status was known, so that the row gets the status
    /// later.
    lacks_status: bool,
    /// Whether this instance has suspended its tree.
    suspended: bool,
    /// Whether it dumped core.
    dumped_core: bool,
    /// Whether this instance recorded that it ended by itself.
    by_itself: bool,
    /// Why it is being ended, according to the last attempt.
    ending: Option<Box<(EndReason, Rule)>>,
    /// Why it was ended, if that could not be recorded with the attempt.
    cause: Option<Box<(EndReason, Option<Justification>)>>,
    /// How many threads are waiting for a change.
    waiting: u32,
}

/// How a process came to this tracker, and how the processes that it leaves are treated.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Tracking {
    /// Whether this tracker created it, so that its status is reported to us.
    pub(in crate::tracker) child: bool,
    pub(in crate::tracker) strays: Strays,
    /// The keeper that created it.
    pub(in crate::tracker) keeper: Option<KeeperHandle>,
}

/// The number of descriptors for a process with a keeper: its own pidfd, the keeper's, and the
/// socket.
pub(in crate::tracker) const KEEPER_DESCRIPTORS: usize = 3;

impl Tracking {
    pub(in crate::tracker) fn descriptors(&self) -> usize {
        if self.keeper.is_some() { KEEPER_DESCRIPTORS } else { 1 }
    }
}

/// A dead process, with the pidfd that reported its death.
pub(in crate::tracker) type Dead = (Arc<Tracked>, Arc<PidFd>);

/// A process for which this instance is responsible.
#[derive(Debug)]
pub(in crate::tracker) struct Tracked {
    pub(in crate::tracker) root: Root,
    pub(in crate::tracker) child: bool,
    pub(in crate::tracker) strays: Strays,
    pub(in crate::tracker) keeper: Option<Box<KeeperHandle>>,
    /// `None` beyond the share of the descriptor limit; then the health pass covers the process.
    pub(in crate::tracker) pidfd: Option<Arc<PidFd>>,
    /// How long the machine had been suspended since boot when tracking began.
    suspended_before: Duration,
    /// When it was last known to be alive; set by the thread that finds it dead, read when its end
    /// is recorded.
    pub(in crate::tracker) died_since: OnceLock<Instant>,
    /// Written by the thread that has reserved its end, and by those that determine its status;
    /// read by all threads.
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Notifies futures when its end is in the ledger.
    #[cfg(feature = "tokio")]
    written: tokio::sync::Notify,
}

impl Tracked {
    pub(in crate::tracker) fn new(
        root: Root,
        tracking: Tracking,
        pidfd: Option<Arc<PidFd>>,
    ) -> Arc<Self> {
        let Tracking { child, strays, keeper } = tracking;
        Arc::new(Self {
            root,
            child,
            strays,
            keeper: keeper.map(Box::new),
            pidfd,
            suspended_before: boot_minus_monotonic(),
            died_since: OnceLock::new(),
            progress: Mutex::default(),
            changed: Condvar::new(),
            #[cfg(feature = "tokio")]
            written: tokio::sync::Notify::new(),
        })
    }

    pub(in crate::tracker) fn descriptors(&self) -> usize {
        if self.keeper.is_some() { KEEPER_DESCRIPTORS } else { 1 }
    }

    /// Returns how long it has run, as counted for its limit: without the time for which the
    /// machine was suspended since tracking began.
    pub(in crate::tracker) fn run_time(&self) -> Duration {
        limits::run_time(self.root.age(), self.suspended_before, boot_minus_monotonic())
    }

    /// Returns the held pidfd or, beyond the descriptor limit, a new one if the process still has
    /// its PID.
    pub(in crate::tracker) fn open_pidfd(
        &self,
        proc: &Proc,
        scope: PidScope,
    ) -> Option<Arc<PidFd>> {
        self.pidfd.clone().or_else(|| match Pinned::probe(proc, scope, &self.root.identity) {
            Probe::Alive(pinned) | Probe::Zombie(pinned) => Some(pinned.into_fd()),
            Probe::Gone | Probe::Unknown(_) => None,
        })
    }

    /// Logs that its keeper was killed while the process is alive. The process continues to run:
    /// its end is detected by its pidfd, and its strays are found by session, token and recorded
    /// descendants.
    pub(in crate::tracker) fn notice_keeper(&self) {
        if !self.keeper.as_deref().is_some_and(KeeperHandle::has_gone) {
            return;
        }
        let lives = self.pidfd.as_ref().is_some_and(|fd| !fd.is_dead().unwrap_or(true));
        if lives && !self.is_being_ended() {
            tracing::error!(
                "the keeper of process {} for task {} was killed: the process continues, and is contained by its session, its \
                 token and recorded descendants only",
                self.root.identity.pid,
                task_text(self.root.task.as_ref()),
            );
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait for a change, if there are any: thousands of processes may end
    /// at once, and usually no thread waits for them.
    fn notify(&self, progress: MutexGuard<'_, Progress>) {
        let is_awaited = progress.waiting > 0;
        drop(progress);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    pub(in crate::tracker) fn status(&self) -> Option<ExitStatus> {
        self.progress().status
    }

    /// Reserves the right to record or cause its end; returns `false` if another thread has it.
    pub(in crate::tracker) fn begin(&self) -> bool {
        let mut progress = self.progress();
        let free = !progress.busy && !progress.recorded;
        progress.busy |= free;
        free
    }

    /// Gives that right back.
    pub(in crate::tracker) fn give_up(&self) {
        let mut progress = self.progress();
        progress.busy = false;
        progress.given_up = true;
        progress.ending = None;
        self.notify(progress);
    }

    pub(in crate::tracker) fn publish(&self, status: ExitStatus) -> ExitStatus {
        let mut progress = self.progress();
        progress.dead = true;
        let status = *progress.status.get_or_insert(status);
        self.notify(progress);
        status
    }

    /// Notes that it is dead, and that its end is about to be recorded without its status.
    pub(in crate::tracker) fn mark_dead(&self) {
        let mut progress = self.progress();
        progress.dead = true;
        progress.lacks_status = progress.status.is_none();
    }

    /// Returns whether it is known to be dead.
    pub(in crate::tracker) fn is_dead(&self) -> bool {
        self.progress().dead
    }

    /// Returns whether its end was recorded before its status was known, and the status is still
    /// missing.
    pub(in crate::tracker) fn lacks_status(&self) -> bool {
        self.progress().lacks_status
    }

    /// Notes that its status is in its row, or never will be.
    pub(in crate::tracker) fn has_noted_status(&self) {
        self.progress().lacks_status = false;
    }

    /// Returns whether it was released: no thread is handling its tree any more.
    pub(in crate::tracker) fn is_over(&self) -> bool {
        self.progress().over
    }

    pub(in crate::tracker) fn mark_recorded(&self) {
        let mut progress = self.progress();
        progress.recorded = true;
        progress.busy = false;
        self.notify(progress);
        #[cfg(feature = "tokio")]
        self.written.notify_waiters();
    }

    pub(in crate::tracker) fn is_recorded(&self) -> bool {
        self.progress().recorded
    }

    /// Notes that the ledger has its end, and that it ended by itself.
    pub(in crate::tracker) fn mark_recorded_by_itself(&self) {
        self.progress().by_itself = true;
        self.mark_recorded();
    }

    /// Returns whether this instance has recorded that it ended by itself.
    pub(in crate::tracker) fn has_ended_by_itself(&self) -> bool {
        self.progress().by_itself
    }

    /// Notes whether this instance has suspended its tree.
    pub(in crate::tracker) fn set_suspended(&self, suspended: bool) {
        self.progress().suspended = suspended;
    }

    pub(in crate::tracker) fn is_suspended(&self) -> bool {
        self.progress().suspended
    }

    pub(in crate::tracker) fn has_dumped_core(&self) -> bool {
        self.progress().dumped_core
    }

    /// Remembers why it is being ended, for threads that wait for it before that is recorded.
    pub(in crate::tracker) fn set_ending(&self, cause: &Cause) {
        self.progress().ending = Some(Box::new((cause.reason, cause.rule.clone())));
    }

    /// Returns why it is being ended, and by which rule.
    pub(in crate::tracker) fn ending(&self) -> Option<(EndReason, Rule)> {
        self.progress().ending.as_deref().cloned()
    }

    /// Resolves when its end is in the ledger.
    #[cfg(feature = "tokio")]
    pub(in crate::tracker) async fn recorded(&self) {
        let mut written = std::pin::pin!(self.written.notified());
        // Registered before the check, so that no notification between the two is missed.
        written.as_mut().enable();
        if !self.is_recorded() {
            written.await;
        }
    }

    /// Notes that no thread is handling its tree any more.
    pub(in crate::tracker) fn mark_over(&self) {
        let mut progress = self.progress();
        progress.over = true;
        self.notify(progress);
    }

    /// Remembers why it ended, for the thread that records its end later; `None` if that is about
    /// to be recorded.
    pub(in crate::tracker) fn set_cause(&self, cause: Option<(EndReason, Option<Justification>)>) {
        self.progress().cause = cause.map(Box::new);
    }

    /// Returns why it ended, if that is known and could not be recorded.
    pub(in crate::tracker) fn cause(&self) -> Option<(EndReason, Option<Justification>)> {
        self.progress().cause.as_deref().cloned()
    }

    /// Returns whether a thread is recording its end, or ending it, or has done so, or has failed
    /// to, so that its deadline no longer applies.
    pub(in crate::tracker) fn is_being_ended(&self) -> bool {
        let progress = self.progress();
        progress.busy || progress.recorded || progress.given_up
    }

    /// Waits until its end is in the ledger; at most until `deadline`.
    pub(in crate::tracker) fn wait_recorded(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |progress| progress.recorded)
    }

    /// Waits until no thread is handling its tree any more; at most until `deadline`.
    pub(in crate::tracker) fn wait_over(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |progress| progress.over || !(progress.busy || progress.recorded))
    }

    fn wait_for(&self, deadline: Instant, done: impl Fn(&Progress) -> bool) -> bool {
        let mut progress = self.progress();
        while !done(&progress) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            progress.waiting += 1;
            progress =
                self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
            progress.waiting -= 1;
        }
        true
    }

    /// Reads the status of the dead process and publishes it. The zombie stays, and pins the PID
    /// and the session.
    ///
    /// Until `deadline` it waits for a status that a tracer or the keeper still holds back, and for
    /// the status of a process that is not our child, which its parent must reap first.
    pub(in crate::tracker) fn learn_status(
        &self,
        pidfd: &PidFd,
        deadline: Instant,
    ) -> StatusReading {
        if let Some(status) = self.status() {
            return StatusReading::Status(status);
        }
        let reading = match self.keeper.as_deref().map(|keeper| keeper.report(deadline)) {
            Some(KeeperReport::Ended(death)) => {
                self.progress().dumped_core |= death.dumped_core;
                StatusReading::Status(death.status)
            }
            Some(KeeperReport::NotYet) => StatusReading::NotYet,
            None if self.child => child_status(pidfd),
            // A keeper that was killed reports nothing. Then its program is the child of another
            // process.
            Some(KeeperReport::Gone) | None => unrelated_status(pidfd, deadline),
        };
        if let StatusReading::Status(status) = reading {
            if status.signal().is_some_and(may_dump_core) && pidfd.has_dumped_core() == Some(true) {
                self.progress().dumped_core = true;
            }
            return StatusReading::Status(self.publish(status));
        }
        reading
    }
}

/// The outcome of reading the status of a dead process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum StatusReading {
    Status(ExitStatus),
    /// It will become available: a tracer still holds the process, or the keeper has not been
    /// scheduled yet.
    NotYet,
    /// Its parent, which is not this process, has not reaped it and may never do so.
    Unreaped,
}

/// Returns whether the kernel may have dumped the core of a process that this signal ended
/// (signal(7)).
fn may_dump_core(signal: i32) -> bool {
    !matches!(signal, libc::SIGTERM | libc::SIGKILL | libc::SIGINT | libc::SIGHUP)
}

/// Returns the status of a dead child. While a tracer has not released it, waitid(2) reports
/// nothing (ptrace(2)); if another process or thread has taken the status, it reports that there is
/// no such child.
fn child_status(pidfd: &PidFd) -> StatusReading {
    match pidfd.child_status(false) {
        Ok(Some(status)) => StatusReading::Status(status),
        Ok(None) => StatusReading::NotYet,
        // The host reaped it, or ignores SIGCHLD: only the exit code may be lost.
        Err(_) => StatusReading::Status(pidfd.exit_info().unwrap_or(ExitStatus::Unobserved)),
    }
}

fn unrelated_status(pidfd: &PidFd, deadline: Instant) -> StatusReading {
    match pidfd.wait_reaped(deadline.saturating_duration_since(Instant::now())) {
        Ok(true) => StatusReading::Status(pidfd.exit_info().unwrap_or(ExitStatus::Unobserved)),
        Ok(false) => StatusReading::Unreaped,
        Err(_) => StatusReading::Status(ExitStatus::Unobserved),
    }
}
