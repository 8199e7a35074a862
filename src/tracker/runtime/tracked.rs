//! What a tracker holds in memory of each process that it answers for.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::keeper_handle::{Kept, Word};
use crate::{
    identity::{Identity, Pid},
    model::{
        Because, Cgroup, Containment, EndReason, ExitStatus, Limits, NewProcess, Origin, ProcessId,
        ProcessRecord, TaskId,
    },
    policy::limits,
    sys::{PidFd, boot_minus_monotonic},
};

/// A process that is not our child is reaped by its parent; the kernel tells its status only afterwards. This long a
/// batch of ends waits for that before the rows say `unobserved`.
pub(in crate::tracker) const REAPED_BY_PARENT: Duration = Duration::from_millis(20);

/// A recorded root, as ending and waiting need it.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Root {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) task: Option<TaskId>,
    pub(in crate::tracker) identity: Identity,
    pub(in crate::tracker) token: Option<Uuid>,
    pub(in crate::tracker) uid: u32,
    pub(in crate::tracker) session: Option<Pid>,
    pub(in crate::tracker) cgroup: Option<Cgroup>,
    /// What holds its tree together, where that is a keeper.
    pub(in crate::tracker) keeper: Option<Identity>,
    pub(in crate::tracker) origin: Origin,
    pub(in crate::tracker) containment: Containment,
    pub(in crate::tracker) limits: Limits,
    pub(in crate::tracker) command: Words,
    /// Whether the arguments of what is below it may be recorded.
    pub(in crate::tracker) arguments: bool,
}

/// Program and arguments in one piece, each ended by NUL, which none can hold: there are as many of these in memory as tracked
/// processes.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct Words(Box<str>);

impl Words {
    pub(in crate::tracker) fn new(words: &[String]) -> Self {
        let ended = words.iter().flat_map(|word| [word.as_str(), "\0"]);
        Self(ended.collect::<String>().into())
    }

    pub(in crate::tracker) fn to_vec(&self) -> Vec<String> {
        self.0.split_terminator('\0').map(str::to_owned).collect()
    }
}

impl Root {
    /// How long it has run, by the clock of start ticks: a wall clock that is set must end nobody. A tick less than what
    /// the kernel tells, so that a limit never strikes early.
    pub(in crate::tracker) fn age(&self) -> Duration {
        crate::sys::procfs::age(self.identity.start_tick).saturating_sub(crate::sys::procfs::TICK)
    }
}

impl Root {
    pub(in crate::tracker) fn recorded(row: ProcessId, new: &NewProcess, arguments: bool) -> Self {
        Self {
            row,
            task: new.task.clone(),
            identity: new.identity,
            token: new.token,
            uid: new.uid,
            session: new.session,
            cgroup: new.cgroup.clone(),
            keeper: new.keeper,
            origin: new.origin,
            containment: new.containment,
            limits: new.limits,
            command: Words::new(&new.command),
            arguments,
        }
    }
}

/// Whether what is below a recorded root may have its arguments recorded: a row does not tell whether its root had none
/// or must not have them told, so one without is taken for the latter.
pub(in crate::tracker) fn may_record_arguments(command: &[String]) -> bool {
    command.len() != 1
}

impl From<&ProcessRecord> for Root {
    fn from(record: &ProcessRecord) -> Self {
        Self {
            row: record.id,
            task: record.task.clone(),
            identity: record.identity,
            token: record.token,
            uid: record.uid,
            session: record.session,
            cgroup: record.cgroup.clone(),
            keeper: record.keeper,
            origin: record.origin,
            containment: record.containment,
            limits: record.limits,
            command: Words::new(&record.command),
            arguments: may_record_arguments(&record.command),
        }
    }
}

/// What a root may leave behind.
#[derive(Clone, Debug, Default)]
pub(in crate::tracker) struct Strays {
    /// All of it, when it ends by itself.
    pub(in crate::tracker) keep: bool,
    /// Programs of these names, with what is below them, whenever the tree is ended.
    pub(in crate::tracker) protected: Arc<[String]>,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that come true one after the other")]
struct Progress {
    status: Option<ExitStatus>,
    /// Somebody is recording its end, or ending it: nobody else starts to.
    busy: bool,
    /// The ledger has its end.
    recorded: bool,
    /// An attempt to end it was given up: the next one is the health pass's.
    given_up: bool,
    /// What it left has been seen to as well: nobody is at work on the tree any more.
    over: bool,
    /// It is known to be dead, though its status may not be known yet.
    dead: bool,
    /// Its end was recorded before its status was known: that is noted in the row later.
    lacks_status: bool,
    /// Why it was ended, where that could not be recorded with the attempt.
    cause: Option<Box<(EndReason, Option<Because>)>>,
}

/// How a process came to this tracker, and what is to become of what it leaves.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Hold {
    /// We had it made, so its status comes to us.
    pub(in crate::tracker) child: bool,
    pub(in crate::tracker) strays: Strays,
    /// The keeper that made it.
    pub(in crate::tracker) kept: Option<Kept>,
    /// Nobody may record its arguments, nor those of what is below it.
    pub(in crate::tracker) bare: bool,
    /// Its tree is ended when its handle is dropped.
    pub(in crate::tracker) terminate_on_drop: bool,
}

/// What a process with a keeper takes: its own pidfd, the keeper's, and the socket.
pub(in crate::tracker) const KEPT_DESCRIPTORS: usize = 3;

impl Hold {
    pub(in crate::tracker) fn descriptors(&self) -> usize {
        if self.kept.is_some() { KEPT_DESCRIPTORS } else { 1 }
    }
}

/// One process that this tracker answers for.
#[derive(Debug)]
pub(in crate::tracker) struct Entry {
    pub(in crate::tracker) root: Root,
    pub(in crate::tracker) child: bool,
    pub(in crate::tracker) strays: Strays,
    pub(in crate::tracker) kept: Option<Box<Kept>>,
    /// `None` beyond the share of the descriptor limit: then the health pass covers it.
    pub(in crate::tracker) pidfd: Option<Arc<PidFd>>,
    /// How long the machine had been suspended since boot when it was taken on.
    suspended_before: Duration,
    /// When it was last known to live, once it is known to be dead.
    pub(in crate::tracker) died_since: OnceLock<Instant>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// The same for futures: its end is in the ledger.
    #[cfg(feature = "tokio")]
    written: tokio::sync::Notify,
}

impl Entry {
    pub(in crate::tracker) fn new(root: Root, hold: Hold, pidfd: Option<Arc<PidFd>>) -> Arc<Self> {
        let Hold { child, strays, kept, bare: _, terminate_on_drop: _ } = hold;
        Arc::new(Self {
            root,
            child,
            strays,
            kept: kept.map(Box::new),
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
        if self.kept.is_some() { KEPT_DESCRIPTORS } else { 1 }
    }

    /// How long it has run, as its limit counts: without the time that the machine was suspended since it was taken on.
    pub(in crate::tracker) fn run_time(&self) -> Duration {
        limits::run_time(self.root.age(), self.suspended_before, boot_minus_monotonic())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::tracker) fn status(&self) -> Option<ExitStatus> {
        self.progress().status
    }

    /// Reserves the right to record or cause its end; `false` where somebody else has it.
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
        drop(progress);
        self.changed.notify_all();
    }

    pub(in crate::tracker) fn publish(&self, status: ExitStatus) -> ExitStatus {
        let mut progress = self.progress();
        progress.dead = true;
        let status = *progress.status.get_or_insert(status);
        drop(progress);
        self.changed.notify_all();
        status
    }

    /// It is dead, and its end is about to be recorded without its status.
    pub(in crate::tracker) fn mark_dead(&self) {
        let mut progress = self.progress();
        progress.dead = true;
        progress.lacks_status = progress.status.is_none();
    }

    /// Whether it is known to be dead.
    pub(in crate::tracker) fn is_dead(&self) -> bool {
        self.progress().dead
    }

    /// Whether its end was recorded before its status was known, and has not got it yet.
    pub(in crate::tracker) fn lacks_status(&self) -> bool {
        self.progress().lacks_status
    }

    /// Its status has reached its row, or never will.
    pub(in crate::tracker) fn has_noted_status(&self) {
        self.progress().lacks_status = false;
    }

    /// Whether it is let go: nothing is at work on its tree any more.
    pub(in crate::tracker) fn is_over(&self) -> bool {
        self.progress().over
    }

    pub(in crate::tracker) fn mark_recorded(&self) {
        let mut progress = self.progress();
        progress.recorded = true;
        progress.busy = false;
        drop(progress);
        self.changed.notify_all();
        #[cfg(feature = "tokio")]
        self.written.notify_waiters();
    }

    pub(in crate::tracker) fn is_recorded(&self) -> bool {
        self.progress().recorded
    }

    /// Ready when its end is in the ledger.
    #[cfg(feature = "tokio")]
    pub(in crate::tracker) async fn recorded(&self) {
        let mut written = std::pin::pin!(self.written.notified());
        // Before the look: what is told between the two must not be missed.
        written.as_mut().enable();
        if !self.is_recorded() {
            written.await;
        }
    }

    /// Nobody is at work on its tree any more.
    pub(in crate::tracker) fn mark_over(&self) {
        self.progress().over = true;
        self.changed.notify_all();
    }

    /// Remembers why it has ended, for whoever records its end later; `None` where it is about to be recorded.
    pub(in crate::tracker) fn set_cause(&self, cause: Option<(EndReason, Option<Because>)>) {
        self.progress().cause = cause.map(Box::new);
    }

    /// Why it has ended, where that is known and could not be recorded.
    pub(in crate::tracker) fn cause(&self) -> Option<(EndReason, Option<Because>)> {
        self.progress().cause.as_deref().cloned()
    }

    /// Somebody is recording its end, or ending it, or has, or has tried in vain: its deadline is nobody's concern now.
    pub(in crate::tracker) fn is_being_ended(&self) -> bool {
        let progress = self.progress();
        progress.busy || progress.recorded || progress.given_up
    }

    /// Waits until its end is in the ledger; at most until `deadline`.
    pub(in crate::tracker) fn wait_recorded(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |progress| progress.recorded)
    }

    /// Waits until nobody is at work on its tree any more; at most until `deadline`.
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
            progress =
                self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Learns the status of the dead process and publishes it; the zombie stays, and pins pid and session.
    ///
    /// A status that another process has to make way for, such as a tracer or the keeper, is waited for until `deadline`,
    /// and so is one of a process that is not our child, which its parent must reap first.
    pub(in crate::tracker) fn learn_status(&self, pidfd: &PidFd, deadline: Instant) -> Learned {
        if let Some(status) = self.status() {
            return Learned::Status(status);
        }
        let learned = match self.kept.as_deref().map(|kept| kept.word(deadline)) {
            Some(Word::Ended(status)) => Learned::Status(status),
            Some(Word::NotYet) => Learned::NotYet,
            None if self.child => child_status(pidfd),
            // A keeper that was killed says nothing; then its program is the child of another process.
            Some(Word::Gone) | None => unrelated_status(pidfd, deadline),
        };
        if let Learned::Status(status) = learned {
            return Learned::Status(self.publish(status));
        }
        learned
    }
}

/// What can be said of the status of a dead process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum Learned {
    Status(ExitStatus),
    /// It will be there: a tracer has the first word, or the keeper has not been scheduled.
    NotYet,
    /// Its parent, which is not this process, has not reaped it, and may never do so.
    Unreaped,
}

/// waitid(2) has nothing to tell of a dead child while a tracer has not let go of it (ptrace(2)). That is not what it says
/// where another one has taken the status: then there is no such child.
fn child_status(pidfd: &PidFd) -> Learned {
    match pidfd.child_status(false) {
        Ok(Some(status)) => Learned::Status(status),
        Ok(None) => Learned::NotYet,
        // The host reaped it, or ignores SIGCHLD: a code may be lost, correctness is not.
        Err(_) => Learned::Status(pidfd.exit_info().unwrap_or(ExitStatus::Unobserved)),
    }
}

fn unrelated_status(pidfd: &PidFd, deadline: Instant) -> Learned {
    match pidfd.wait_reaped(deadline.saturating_duration_since(Instant::now())) {
        Ok(true) => Learned::Status(pidfd.exit_info().unwrap_or(ExitStatus::Unobserved)),
        Ok(false) => Learned::Unreaped,
        Err(_) => Learned::Status(ExitStatus::Unobserved),
    }
}
