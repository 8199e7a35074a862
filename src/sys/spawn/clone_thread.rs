//! A thread that creates a child for another one, and is suspended until the child has left the
//! memory (`CLONE_VFORK`).
//!
//! Used for a child in its own cgroup: if that cgroup runs out of memory, the kernel ends every
//! process that shares the memory of its victim, which would include the host, but it skips a child
//! of vfork(2) (`oom_badness` in `mm/oom_kill.c`). Each child needs a new thread: capabilities,
//! seccomp filters and file access rights belong to a thread, and a child must have those of the
//! thread that requests it.
//!
//! The thread makes a few system calls and exits, so it does not need libc, whose threads take
//! several times as long to create. It is created like a child, on a stack of ours, with every
//! signal blocked and with the thread-local memory of the thread that waits for it.

#![expect(
    unsafe_code,
    reason = "clone by instruction, and data that a thread shares with the one that waits for it"
)]

use std::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicIsize, AtomicU32, Ordering},
    thread::JoinHandle,
};

use rustix::thread::futex;

use super::{
    child::{Plan, report_created},
    clone::{clone_as_can, clone_with, masked, to_pid},
    gate::NOT_CREATED,
    stack::Stack,
};
use crate::{
    error::{Error, Result},
    sys::syscall,
};

/// Whether the thread that creates a child may run beside it. Not with the thread sanitizer, which
/// keeps its state in thread-local memory, which both share (`tests/threads`).
pub(super) const RUNS_BESIDE: bool = !cfg!(procledger_thread_sanitizer);

const FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_CHILD_CLEARTID;

/// The thread and its request. Dropping this waits until the thread has ended, and thus until the
/// child has left the memory.
pub(super) struct CloneThread {
    request: Box<Request>,
    stack: Option<Stack>,
    of_libc: Option<JoinHandle<()>>,
}

struct Request {
    plan: *const Plan<'static>,
    stack: *const Stack,
    /// The pid of the child, or a negative errno.
    made: AtomicIsize,
    /// Nonzero until the thread has ended.
    running: AtomicU32,
}

// SAFETY: the thread that created it waits until the one that uses it has ended.
unsafe impl Sync for Request {}

impl CloneThread {
    /// Creates a child on a new thread; returns the result of clone, and the thread if it is still
    /// running.
    pub(super) fn create(plan: &Plan<'_>, stack: &Stack) -> Result<(isize, Option<Self>)> {
        let request = Request {
            plan: ptr::from_ref(plan).cast(),
            stack,
            made: AtomicIsize::new(0),
            running: AtomicU32::new(0),
        };
        let mut clone_thread = Self { request: Box::new(request), stack: None, of_libc: None };
        clone_thread.start()?;
        match plan.gate.wait_until_created() {
            NOT_CREATED => {
                clone_thread.wait();
                Ok((clone_thread.request.made.load(Ordering::Acquire), None))
            }
            child_pid => Ok((child_pid.cast_signed() as isize, Some(clone_thread))),
        }
    }

    fn start(&mut self) -> Result<()> {
        if RUNS_BESIDE { self.start_thread() } else { self.start_thread_of_libc() }
    }

    fn start_thread(&mut self) -> Result<()> {
        let stack = self.stack.insert(Stack::take()?);
        self.request.running.store(1, Ordering::Release);
        let request = ptr::from_ref(&*self.request);
        let running = self.request.running.as_ptr();
        let none = ptr::null_mut();
        // SAFETY: `run` makes raw system calls only, and does not return; the request and the stack
        // stay until it has ended, which `drop` waits for.
        let made = masked(|| unsafe {
            clone_with(FLAGS, stack, none, running, run, request.cast::<c_void>())
        });
        if made < 0 {
            self.request.running.store(0, Ordering::Release);
        }
        to_pid(made).map(drop)
    }

    /// Starts a thread of libc, for the thread sanitizer, which keeps its state in thread-local
    /// memory.
    fn start_thread_of_libc(&mut self) -> Result<()> {
        let request = ptr::from_ref(&*self.request) as usize;
        let thread = std::thread::Builder::new().spawn(move || {
            crate::sys::leave_signals_to_the_host();
            // SAFETY: the request stays until this thread is joined.
            create(unsafe { &*(request as *const Request) });
        });
        let failed = |error| Error::os("failed to start the thread that creates a process", error);
        self.of_libc = Some(thread.map_err(failed)?);
        Ok(())
    }

    fn wait(&mut self) {
        if let Some(thread) = self.of_libc.take() {
            let _ = thread.join();
        }
        while self.request.running.load(Ordering::Acquire) != 0 {
            // The kernel wakes waiters by a futex that is not private.
            let _ = futex::wait(&self.request.running, futex::Flags::empty(), 1, None);
        }
    }
}

impl Drop for CloneThread {
    fn drop(&mut self) {
        self.wait();
        if let Some(stack) = self.stack.take() {
            stack.give_back();
        }
    }
}

extern "C" fn run(request: *const c_void) -> ! {
    // SAFETY: the thread that waits for this one passed it.
    create(unsafe { &*request.cast::<Request>() });
    loop {
        // SAFETY: this ends only this thread.
        unsafe { syscall::syscall(libc::SYS_exit, [0; 5]) };
    }
}

fn create(request: &Request) {
    // SAFETY: the thread that waits for this one holds both.
    let (plan, stack) = unsafe { (&*request.plan, &*request.stack) };
    let made = clone_as_can(plan, stack);
    request.made.store(made, Ordering::Release);
    // A child that was killed at once has not reported its pid itself.
    report_created(plan.gate, u32::try_from(made).unwrap_or(NOT_CREATED));
}
