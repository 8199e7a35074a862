//! Registers processes that the caller started by other means.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{Containment, Millis, NewProcess, Origin, TaskId, state::State},
    sys::Pinned,
    tracker::{
        Tracker,
        core::Core,
        membership::process_info::command_of,
        runtime::tracked::{Hold, Root},
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
        let core = &self.inner.core;
        let _spawning = core.instance.begin_spawn()?;
        let task = TaskId::new(task_id)?;
        let pid = pid.into();
        let number = Pid::new(pid).filter(|pid| pid.get() != 1).ok_or_else(|| {
            Error::invalid(format!("pid {pid} cannot be registered: it must be greater than 1"))
        })?;
        let pinned = pin(core, number)?;
        core.write_late_of(&task);
        let new = describe(core, task, &pinned)?;
        let rows = core.store.admit(&core.place(), std::slice::from_ref(&new))?;
        let row = rows
            .into_iter()
            .next()
            .ok_or_else(|| Error::new(Kind::Other, "the ledger returned no row"))??;
        // Even if it is a child of ours: its starter waits for it, and we never take its status away.
        let root = Root::recorded(row, &new, core.options.record_arguments);
        core.take_on(root, Hold::default(), &pinned.into_fd());
        core.notify_export();
        Ok(())
    }

    /// Stops tracking a task: its process lives on, and no instance is responsible for it. Returns `false` when the task is not
    /// tracked.
    ///
    /// # Errors
    ///
    /// Invalid input for a bad task id; when the ledger cannot be written.
    pub fn unregister(&self, task_id: &str) -> Result<bool> {
        let core = &self.inner.core;
        core.instance.check_usable()?;
        let task = TaskId::new(task_id)?;
        let mut any = false;
        let dead = core.dead_claimants_of(&core.store.live_of_task(&task)?);
        core.store.void_claims(&dead)?;
        for record in core.store.live_of_task(&task)? {
            if record.owner == core.instance.id && record.state != State::Ending {
                any |= core.store.release(record.id, core.instance.id, Millis::now())?;
                if let Some(entry) = core.entry(record.id) {
                    entry.mark_recorded();
                }
                core.release(record.id);
            }
        }
        core.notify_export();
        Ok(any)
    }

    /// Returns the number of roots that this instance is responsible for now, as `executing_count` of the former implementation
    /// did.
    pub fn executing_count(&self) -> usize {
        crate::tracker::runtime::lock::lock(&self.inner.core.entries).len()
    }

    /// Whether the monitor thread runs.
    pub fn is_monitoring(&self) -> bool {
        self.inner.core.monitoring.load(Ordering::Acquire)
    }
}

/// Pins the process, and refuses processes that must not be registered.
fn pin(core: &Arc<Core>, pid: Pid) -> Result<Pinned> {
    let own = core.own_pid();
    if pid == own {
        return Err(Error::invalid(format!(
            "pid {pid} is this process itself: it cannot track itself"
        )));
    }
    let gone = || Error::new(Kind::Gone, format!("process {pid} does not exist"));
    let pinned = Pinned::open(&core.proc, core.place(), pid)?.ok_or_else(gone)?;
    if pinned.stat.is_kernel_thread() {
        return Err(Error::invalid(format!(
            "process {pid} is a kernel thread: it cannot be tracked"
        )));
    }
    // A process that was started after us is not an ancestor.
    let is_older = pinned.stat.start_tick <= core.instance.identity.start_tick;
    if is_older && core.proc.ancestors(own).contains(&pid) {
        return Err(Error::invalid(format!(
            "process {pid} is an ancestor of this one: it cannot be tracked from here"
        )));
    }
    if pinned.is_dead()? {
        return Err(gone());
    }
    Ok(pinned)
}

fn describe(core: &Core, task: TaskId, pinned: &Pinned) -> Result<NewProcess> {
    let pid = pinned.pid();
    let uid = pinned
        .uid(&core.proc)?
        .ok_or_else(|| Error::new(Kind::Gone, format!("process {pid} does not exist")))?;
    if !core.instance.observer.may_touch(uid) {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "process {pid} belongs to uid {uid}, the ledger to uid {}: track it as that user",
                core.instance.observer.uid
            ),
        ));
    }
    Ok(NewProcess {
        task: Some(task),
        owner: core.instance.id,
        root: None,
        origin: Origin::Registered,
        token: None,
        identity: pinned.identity,
        session: None,
        cgroup: None,
        containment: Containment::None,
        keeper: None,
        command: command_of(&core.proc, pid, core.options.record_arguments),
        cwd: None,
        uid,
        limits: core.options.limits(),
        started_at: Millis::now(),
        peak_rss: None,
        cpu: None,
        evidence: None,
        state: State::Running,
        allow_survivor: false,
    })
}
