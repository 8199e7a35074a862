//! The floor of a spawn that is recorded before its program runs, written without any code of this
//! crate: a child that waits until the row with its identity is committed, and then calls
//! execve(2).

#![expect(unsafe_code, reason = "clone in the memory of its caller, and futexes")]

use std::{
    ffi::{c_int, c_void},
    hint::black_box,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use super::sleepers::{Program, Raw};

/// The memory that the child and its creator share.
struct Gate<'a> {
    program: &'a Program,
    /// 1 once the child may call execve(2).
    open: AtomicU32,
    /// Cleared by the kernel when the child has left the memory of its creator.
    inside: AtomicU32,
}

/// Starts the program once `commit`, which gets the pid of the waiting child, has returned; returns
/// when the program is loaded. The child is created in `cgroup` if there is one.
pub(crate) fn spawn(
    program: &mut Program,
    cgroup: Option<BorrowedFd<'_>>,
    commit: impl FnOnce(u32),
) -> (Raw, OwnedFd) {
    let top = program.stack_top();
    let gate = Gate { program, open: AtomicU32::new(0), inside: AtomicU32::new(1) };
    let mut pidfd: RawFd = -1;
    let pid = match cgroup {
        None => clone(&gate, top, &mut pidfd),
        Some(cgroup) => clone_into(&gate, top, &mut pidfd, cgroup),
    };
    assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just opened it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    black_box(std::fs::read(format!("/proc/{pid}/stat")).expect("it waits"));
    commit(pid.cast_unsigned());
    gate.open.store(1, Ordering::Release);
    futex(&gate.open, libc::FUTEX_WAKE, 1);
    while gate.inside.load(Ordering::Acquire) == 1 {
        futex(&gate.inside, libc::FUTEX_WAIT, 1);
    }
    (Raw(pid), pidfd)
}

const FLAGS: c_int =
    libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;

fn clone(gate: &Gate<'_>, top: *mut u8, pidfd: &mut RawFd) -> c_int {
    // SAFETY: the stack is large enough and nothing else uses it; the caller returns, and drops the
    // gate, only when the child has left this memory.
    unsafe {
        libc::clone(
            pass,
            top.cast(),
            FLAGS,
            ptr::from_ref(gate).cast_mut().cast::<c_void>(),
            ptr::from_mut(pidfd),
            ptr::null_mut::<c_void>(),
            gate.inside.as_ptr(),
        )
    }
}

extern "C" fn pass(gate: *mut c_void) -> c_int {
    // SAFETY: `spawn` keeps it until this child has left its memory.
    let gate = unsafe { &*gate.cast::<Gate<'_>>() };
    // Without a session of its own it would share the scheduler's group (autogroup) with its
    // creator, which then gets the processor only when the program has ended. SAFETY: no memory is
    // touched.
    unsafe { libc::setsid() };
    while gate.open.load(Ordering::Acquire) == 0 {
        futex(&gate.open, libc::FUTEX_WAIT, 0);
    }
    gate.program.execute()
}

/// `FUTEX_WAKE` wakes one waiter, and `FUTEX_WAIT` waits while the value is this one.
fn futex(word: &AtomicU32, operation: c_int, value: u32) {
    let none = ptr::null::<libc::timespec>();
    // SAFETY: it is a futex word, and there is no time limit. A call that fails is repeated by the
    // caller's loop.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, none) };
}

/// Whether this machine's floor of a spawn into a cgroup can be measured: clone3(2) with a stack
/// has no wrapper in libc.
pub(crate) const HAS_CLONE_INTO: bool = cfg!(target_arch = "x86_64");

#[cfg(not(target_arch = "x86_64"))]
fn clone_into(_: &Gate<'_>, _: *mut u8, _: &mut RawFd, _: BorrowedFd<'_>) -> c_int {
    unreachable!("see HAS_CLONE_INTO")
}

#[cfg(target_arch = "x86_64")]
fn clone_into(gate: &Gate<'_>, top: *mut u8, pidfd: &mut RawFd, cgroup: BorrowedFd<'_>) -> c_int {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    const STACK: u64 = 32 << 10;
    /// `struct clone_args` (clone3(2)).
    #[repr(C, align(8))]
    struct Args([u64; 11]);
    let flags = u64::from((FLAGS & !libc::SIGCHLD).cast_unsigned()) | CLONE_INTO_CGROUP;
    let args = Args([
        flags,
        ptr::from_mut(pidfd) as u64,
        gate.inside.as_ptr() as u64,
        0,
        libc::SIGCHLD as u64,
        top as u64 - STACK,
        STACK,
        0,
        0,
        0,
        u64::try_from(cgroup.as_raw_fd()).expect("a descriptor"),
    ]);
    let pid: i64;
    // SAFETY: as in `clone`; the child starts on its own stack with the registers of its creator,
    // and never returns from `enter`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const args,
            in("rsi") size_of::<Args>(),
            in("r12") ptr::from_ref(gate),
            in("r13") enter as extern "C" fn(*mut c_void) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    i32::try_from(pid).unwrap_or(-1)
}

#[cfg(target_arch = "x86_64")]
extern "C" fn enter(gate: *mut c_void) -> ! {
    let code = pass(gate);
    // SAFETY: it ends this child alone.
    unsafe { libc::_exit(code) }
}
