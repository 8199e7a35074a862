//! The system call that creates a child: clone3(2), or clone(2) if clone3 is refused.

#![expect(unsafe_code, reason = "clone by instruction, and the descriptor that it creates")]

use std::{
    ffi::c_void,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use super::{
    child::{Plan, enter, leave},
    reap::reap,
    stack::Stack,
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::{PidFd, syscall},
};

/// Set once clone3 was refused, so that it is not tried again.
static WITHOUT_CLONE3: AtomicBool = AtomicBool::new(false);

pub(super) fn to_pid(result: isize) -> Result<Pid> {
    if result < 0 {
        return Err(not_made(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    Pid::new(result as i64).ok_or_else(|| Error::new(Kind::Other, "clone returned no pid"))
}

/// Returns the error of clone(2).
pub(in crate::sys) fn not_made(errno: i32) -> Error {
    let what = match errno {
        libc::EAGAIN => {
            "cannot create a process: limit reached (`ulimit -u`, or a cgroup's pids.max)"
        }
        _ => "cannot create a process",
    };
    Error::os(what, std::io::Error::from_raw_os_error(errno))
}

/// Sets the thread's signal mask by the raw system call, including the real-time signals that libc
/// reserves, and returns the previous mask.
///
/// No handler of the host may run in the child, which shares its memory.
fn mask_signals(mask: u64) -> u64 {
    let mut before = 0_u64;
    let args =
        [libc::SIG_SETMASK as usize, (&raw const mask) as usize, (&raw mut before) as usize, 8, 0];
    // SAFETY: both point to signal sets of the kernel's size, 8 bytes.
    unsafe { syscall::syscall(libc::SYS_rt_sigprocmask, args) };
    before
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The flags of every clone. The table of descriptors is shared until the child leaves it, since
/// the cost of a copy grows with the number of descriptors that the host has open.
const FLAGS: i32 = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD;

/// `struct clone_args` of Linux 5.7 (clone3(2)). An older kernel accepts it if the fields that it
/// does not know are zero.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Clones with all signals blocked, which the child inherits.
pub(super) fn clone(plan: &Plan<'_>, stack: &Stack) -> isize {
    masked(|| clone_as_can(plan, stack))
}

/// Calls `work` with all signals blocked.
pub(super) fn masked<T>(work: impl FnOnce() -> T) -> T {
    let mask = mask_signals(u64::MAX);
    let result = work();
    mask_signals(mask);
    result
}

/// Clones with clone3 or, if that is refused, with clone. All signals must be blocked.
pub(super) fn clone_as_can(plan: &Plan<'_>, stack: &Stack) -> isize {
    if plan.cgroup.is_some() {
        // clone(2) does not support cgroups, and a program whose row has a task cgroup is never
        // started elsewhere.
        return clone3(plan, stack);
    }
    if !WITHOUT_CLONE3.load(Ordering::Relaxed) {
        let result = clone3(plan, stack);
        // ENOSYS: an old kernel, or a seccomp profile that does not know it. EPERM: a profile that
        // refuses it. EINVAL: a kernel before CLONE_CLEAR_SIGHAND.
        if ![libc::ENOSYS, libc::EPERM, libc::EINVAL]
            .iter()
            .any(|&errno| result == -(errno as isize))
        {
            return result;
        }
        let fallback = clone2(plan, stack);
        WITHOUT_CLONE3.store(fallback > 0, Ordering::Relaxed);
        return fallback;
    }
    clone2(plan, stack)
}

fn flags(plan: &Plan<'_>) -> i32 {
    let suspends = if plan.suspends { libc::CLONE_VFORK } else { 0 };
    FLAGS | libc::CLONE_CHILD_CLEARTID | suspends
}

fn clone3(plan: &Plan<'_>, stack: &Stack) -> isize {
    let into_cgroup = if plan.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = CloneArgs {
        flags: u64::from(flags(plan).cast_unsigned()) | CLONE_CLEAR_SIGHAND | into_cgroup,
        pidfd: plan.gate.pidfd.as_ptr() as u64,
        child_tid: plan.gate.inside.as_ptr() as u64,
        cgroup: plan.cgroup.map_or(0, |fd| u64::from(fd.cast_unsigned())),
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        ..CloneArgs::default()
    };
    let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: the arguments are as clone3(2) requires; `enter` makes raw system calls only; the
    // plan lives on the frame of our caller, which also holds the stack, until `inside` is cleared.
    unsafe {
        syscall::clone_onto(
            libc::SYS_clone3,
            registers,
            enter,
            ptr::from_ref(plan).cast::<c_void>(),
        )
    }
}

fn clone2(plan: &Plan<'_>, stack: &Stack) -> isize {
    let (pidfd, inside) = (plan.gate.pidfd.as_ptr().cast(), plan.gate.inside.as_ptr());
    // SAFETY: as in `clone3`.
    unsafe {
        let argument = ptr::from_ref(plan).cast::<c_void>();
        clone_with(flags(plan) | libc::SIGCHLD, stack, pidfd, inside, enter, argument)
    }
}

/// Calls clone(2). In `parent_tid` the kernel stores the value that the flags request.
///
/// # Safety
///
/// As for [`syscall::clone_onto`].
pub(super) unsafe fn clone_with(
    flags: i32,
    stack: &Stack,
    parent_tid: *mut u32,
    child_tid: *mut u32,
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> isize {
    let (flags, top) = (flags.cast_unsigned() as usize, stack.top() as usize);
    let (parent_tid, child_tid) = (parent_tid as usize, child_tid as usize);
    // The raw call takes flags, stack and the first address first; the order of the rest depends on
    // the architecture (clone(2)).
    let registers = if cfg!(target_arch = "x86_64") {
        [flags, top, parent_tid, child_tid, 0]
    } else {
        [flags, top, parent_tid, 0, child_tid]
    };
    // SAFETY: guaranteed by the caller.
    unsafe { syscall::clone_onto(libc::SYS_clone, registers, entry, argument) }
}

/// Tests whether a child can be created in a cgroup, by creating one that exits at once while this
/// thread is suspended.
pub(in crate::sys) fn try_joining(cgroup: BorrowedFd<'_>) -> Result<()> {
    let stack = Stack::take()?;
    let pidfd = AtomicI32::new(-1);
    let flags = (FLAGS | libc::CLONE_VFORK).cast_unsigned();
    let args = CloneArgs {
        flags: u64::from(flags) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: pidfd.as_ptr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: as in `clone3`; `leave` makes one raw system call.
    let made = masked(|| unsafe {
        syscall::clone_onto(libc::SYS_clone3, registers, leave, ptr::null::<c_void>())
    });
    to_pid(made)?;
    // SAFETY: the kernel stored a new descriptor there, and no other code closes it.
    let child = unsafe { OwnedFd::from_raw_fd(pidfd.load(Ordering::Acquire)) };
    reap(&PidFd::from_owned(child));
    stack.give_back();
    Ok(())
}
