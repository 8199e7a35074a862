//! Registers processes that the caller started by other means.

use std::sync::Arc;

use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{Millis, NewProcess, Origin, ProcessSpec, State, TaskId},
    sys::Pinned,
    tracker::{
        core::Core,
        end::{flush, foreign_claims, release},
        handle::process::Process,
        membership::process_info::command_of,
        runtime::tracked::{Root, Tracking},
    },
};

/// Tracks a process that was started by other means; see
/// [`Tracker::register`](crate::Tracker::register).
pub(in crate::tracker) fn register(core: &Arc<Core>, task_id: String, pid: i64) -> Result<Process> {
    let _spawning = core.instance.begin_spawn()?;
    let task = TaskId::new(task_id)?;
    let number = Pid::new(pid).filter(|pid| pid.get() != 1).ok_or_else(|| {
        Error::invalid(format!("pid {pid} cannot be registered: it must be greater than 1"))
    })?;
    let pinned = pin(core, number)?;
    flush::flush_task(core, &task);
    let new = describe(core, task, &pinned)?;
    let row = core.store.insert_one(&core.pid_scope(), &new)?;
    // It does not count as a child even if it is one: its starter waits for it, and must get its
    // status.
    let root = Root::recorded(row, &new.spec, core.options.record_arguments);
    let pidfd = pinned.into_fd();
    let entry = core.registry.track(root, Tracking::default(), &pidfd);
    core.export.notify();
    Ok(Process::new(Arc::clone(core), entry, pidfd))
}

/// Stops tracking a task; see [`Tracker::unregister`](crate::Tracker::unregister).
pub(in crate::tracker) fn unregister(core: &Core, task_id: &str) -> Result<bool> {
    let task = TaskId::new(task_id)?;
    let mut any = false;
    let dead = foreign_claims::dead_claimants_of(core, &core.store.live_of_task(&task)?);
    core.store.void_claims(&dead)?;
    for record in core.store.live_of_task(&task)? {
        if record.owner == core.instance.id && record.life.state() != State::Ending {
            any |= core.store.release(record.id, core.instance.id, Millis::now())?;
            if let Some(entry) = core.registry.get(record.id) {
                entry.mark_recorded();
            }
            release::release(core, record.id);
        }
    }
    core.export.notify();
    Ok(any)
}

/// Pins the process; fails for processes that must not be registered.
fn pin(core: &Arc<Core>, pid: Pid) -> Result<Pinned> {
    let own = core.own_pid();
    if pid == own {
        return Err(Error::invalid(format!(
            "pid {pid} is this process itself: it cannot track itself"
        )));
    }
    let gone = || Error::new(Kind::Gone, format!("process {pid} does not exist"));
    let pinned = Pinned::open(&core.proc, core.pid_scope(), pid)?.ok_or_else(gone)?;
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
    let (by, limits) = (core.instance.id, core.options.limits());
    Ok(NewProcess::from(ProcessSpec {
        task_id: Some(task),
        command: command_of(&core.proc, pid, core.options.record_arguments),
        ..ProcessSpec::new(by, Origin::Registered, pinned.identity, uid, limits)
    }))
}
