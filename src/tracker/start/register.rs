//! Registers processes that the caller started by other means.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{Containment, Millis, NewProcess, Origin, TaskId, state::State},
    sys::Pinned,
    tracker::{
        Tracker,
        membership::process_info::command_of,
        runtime::{
            shared::Shared,
            tracked::{Hold, Root},
        },
    },
};

impl Tracker {
    /// Tracks a process that the caller started by other means. It is ended with this tracker, like a spawned one, but only the
    /// process itself and its descendants: its session and its cgroup belong to its starter.
    ///
    /// Between its start and this call the process is not tracked: prefer [`spawn`](Tracker::spawn), which has no such gap.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// # #[allow(clippy::disallowed_methods)]
    /// let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    /// tracker.register("task-43", child.id())?;
    /// tracker.terminate("task-43")?;
    /// # child.wait().unwrap();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - invalid input: a bad task id; pid 0, 1 or negative; our own pid or an ancestor's; a kernel thread;
    /// - [`is_gone`](Error::is_gone): no such process, or it is dead already;
    /// - [`is_denied`](Error::is_denied): it belongs to a uid other than the ledger's;
    /// - [`is_already_running`](Error::is_already_running): the task has a live process;
    /// - [`is_closed`](Error::is_closed): after shutdown.
    pub fn register(&self, task_id: impl Into<String>, pid: impl Into<i64>) -> Result<()> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let _spawning = shared.spawning.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.check_usable()?;
        let task = TaskId::new(task_id)?;
        let pid = pid.into();
        let number = Pid::new(pid).filter(|pid| pid.get() != 1).ok_or_else(|| {
            Error::invalid(format!("pid {pid} cannot be registered: it must be greater than 1"))
        })?;
        let pinned = pin(shared, number)?;
        shared.write_late_of(&task);
        let new = describe(shared, task, &pinned)?;
        let rows = shared.store.admit(&shared.place(), std::slice::from_ref(&new))?;
        let row = rows
            .into_iter()
            .next()
            .ok_or_else(|| Error::new(Kind::Other, "the ledger returned no row"))??;
        // Even if it is a child of ours: its starter waits for it, and we never take its status away.
        let root = Root::recorded(row, &new, shared.options.record_arguments);
        shared.take_on(root, Hold::default(), &pinned.into_fd());
        shared.notify_export();
        Ok(())
    }

    /// Stops tracking a task: its process lives on, and no instance is responsible for it. Returns `false` when the task is not
    /// tracked.
    ///
    /// # Errors
    ///
    /// Invalid input for a bad task id; when the ledger cannot be written.
    pub fn unregister(&self, task_id: &str) -> Result<bool> {
        let shared = &self.inner.shared;
        shared.check_usable()?;
        let task = TaskId::new(task_id)?;
        let mut any = false;
        let dead = shared.dead_claimants_of(&shared.store.live_of_task(&task)?);
        shared.store.void_claims(&dead)?;
        for record in shared.store.live_of_task(&task)? {
            if record.owner == shared.instance && record.state != State::Ending {
                any |= shared.store.release(record.id, shared.instance, Millis::now())?;
                if let Some(entry) = shared.entry(record.id) {
                    entry.mark_recorded();
                }
                shared.release(record.id);
            }
        }
        shared.notify_export();
        Ok(any)
    }

    /// Returns the number of roots that this instance is responsible for now, as `executing_count` of the former implementation
    /// did.
    pub fn executing_count(&self) -> usize {
        crate::tracker::runtime::shared::lock(&self.inner.shared.entries).len()
    }

    /// Whether the monitor thread runs.
    pub fn is_monitoring(&self) -> bool {
        self.inner.shared.monitoring.load(Ordering::Acquire)
    }
}

/// Pins the process, and refuses processes that must not be registered.
fn pin(shared: &Arc<Shared>, pid: Pid) -> Result<Pinned> {
    let own = shared.own_pid();
    if pid == own {
        return Err(Error::invalid(format!(
            "pid {pid} is this process itself: it cannot track itself"
        )));
    }
    let gone = || Error::new(Kind::Gone, format!("process {pid} does not exist"));
    let pinned = Pinned::open(&shared.proc, shared.place(), pid)?.ok_or_else(gone)?;
    if pinned.stat.is_kernel_thread() {
        return Err(Error::invalid(format!(
            "process {pid} is a kernel thread: it cannot be tracked"
        )));
    }
    // A process that was started after us is not an ancestor.
    let is_older = pinned.stat.start_tick <= shared.identity.start_tick;
    if is_older && shared.proc.ancestors(own).contains(&pid) {
        return Err(Error::invalid(format!(
            "process {pid} is an ancestor of this one: it cannot be tracked from here"
        )));
    }
    if pinned.is_dead()? {
        return Err(gone());
    }
    Ok(pinned)
}

fn describe(shared: &Shared, task: TaskId, pinned: &Pinned) -> Result<NewProcess> {
    let pid = pinned.pid();
    let uid = pinned
        .uid(&shared.proc)?
        .ok_or_else(|| Error::new(Kind::Gone, format!("process {pid} does not exist")))?;
    if !shared.observer.may_touch(uid) {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "process {pid} belongs to uid {uid}, the ledger to uid {}: track it as that user",
                shared.observer.uid
            ),
        ));
    }
    Ok(NewProcess {
        task: Some(task),
        owner: shared.instance,
        root: None,
        origin: Origin::Registered,
        token: None,
        identity: pinned.identity,
        session: None,
        cgroup: None,
        containment: Containment::None,
        keeper: None,
        command: command_of(&shared.proc, pid, shared.options.record_arguments),
        cwd: None,
        uid,
        limits: shared.limits(),
        started_at: Millis::now(),
        peak_rss: None,
        cpu: None,
        evidence: None,
        state: State::Running,
        allow_survivor: false,
    })
}
