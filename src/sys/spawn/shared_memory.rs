//! A child that shares the memory of its host, from clone to exec.

#![expect(unsafe_code, reason = "the descriptor that clone creates")]

use std::{
    os::fd::{FromRawFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use super::{
    child::Plan,
    clone::{clone, to_pid},
    clone_thread::{CloneThread, RUNS_BESIDE},
    command::TargetCgroup,
    gate::Gate,
    reap::reap,
    stack::Stack,
};
use crate::{error::Result, identity::Pid, sys::PidFd};

/// A child of ours that is not yet a program.
#[derive(Clone, Debug)]
pub(crate) struct GatedChild {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Arc<PidFd>,
    /// Whether it was created in its task cgroup.
    pub(crate) in_task_cgroup: bool,
    pub(crate) gate: Arc<Gate>,
}

/// Creates the child, calls `meanwhile`, and returns when the child has left our memory, by exec or
/// by death.
///
/// If it cannot be created in its task cgroup, for example because a seccomp profile was set
/// meanwhile, it is created outside, unless the task cgroup is required.
pub(super) fn make_child<R>(
    mut plan: Plan<'_>,
    target: Option<&TargetCgroup>,
    gate: &Arc<Gate>,
    meanwhile: impl FnOnce(&GatedChild) -> R,
) -> Result<(GatedChild, R)> {
    let mut sharing = SharedMemoryChild::begin(&plan, target.is_some(), gate);
    if sharing.is_err() && target.is_some_and(|target| !target.required) {
        (plan.cgroup, plan.suspends) = (None, !RUNS_BESIDE);
        gate.child_pid.store(0, Ordering::Release);
        sharing = SharedMemoryChild::begin(&plan, false, gate);
    }
    let sharing = sharing?;
    let result = meanwhile(&sharing.child);
    let child = sharing.child.clone();
    drop(sharing);
    Ok((child, result))
}

/// A child that runs in our memory, on a stack of ours. It must have left the memory, by exec or by
/// death, before its plan or the stack is dropped, even if this thread panics.
struct SharedMemoryChild {
    child: GatedChild,
    stack: Option<Stack>,
    /// The thread that is suspended until then.
    clone_thread: Option<CloneThread>,
}

impl SharedMemoryChild {
    fn begin(plan: &Plan<'_>, in_task_cgroup: bool, gate: &Arc<Gate>) -> Result<Self> {
        let stack = Stack::take()?;
        let (made, clone_thread) = if plan.suspends {
            CloneThread::create(plan, &stack)?
        } else {
            (clone(plan, &stack), None)
        };
        let pid = to_pid(made)?;
        // SAFETY: the kernel stored a new descriptor there, and no other code closes it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(gate.pidfd.load(Ordering::Acquire)) };
        let pidfd = Arc::new(PidFd::from_owned(pidfd));
        let child = GatedChild { pid, pidfd, in_task_cgroup, gate: Arc::clone(gate) };
        Ok(Self { child, stack: Some(stack), clone_thread })
    }
}

impl Drop for SharedMemoryChild {
    fn drop(&mut self) {
        let GatedChild { gate, pidfd, .. } = &self.child;
        let panics = std::thread::panicking();
        if panics {
            gate.refuse();
        }
        gate.wait_until_left(pidfd);
        drop(self.clone_thread.take());
        if let Some(stack) = self.stack.take() {
            stack.give_back();
        }
        if panics {
            reap(pidfd);
        }
    }
}
