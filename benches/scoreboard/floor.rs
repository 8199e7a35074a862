//! The floor of a spawn that is recorded before exec: its steps in sequence, and nothing else.

#![expect(unsafe_code, reason = "clone without suspending the parent")]

use std::{
    ffi::{c_int, c_void},
    fs, hint, ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::thread::futex;

use super::{
    bare::Bare,
    samples::timed,
    sleepers::{Program, Raw},
};

/// What parent and child share: the child waits at the gate, and the kernel clears the other word when it has left the memory.
struct Shared<'a> {
    program: &'a Program,
    gate: AtomicU32,
    inside: AtomicU32,
}

/// How often the child looks at the gate before it sleeps there.
const SPINS: usize = 10_000;

/// A child that shares the memory until exec, the first read of its identity, one INSERT, the gate, and the wait for exec. No
/// check, no token, no session, no signal state.
pub(crate) fn gated_spawn(program: &mut Program, bare: &mut Bare, round: usize) -> Duration {
    let top = program.stack_top();
    let shared = Shared { program, gate: AtomicU32::new(0), inside: AtomicU32::new(1) };
    let (took, child) = timed(|| {
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        let inside = shared.inside.as_ptr();
        let argument = ptr::from_ref(&shared).cast_mut().cast::<c_void>();
        // SAFETY: the stack is large enough, and it and the shared memory stay until the child has left, which is waited for.
        let pid = unsafe {
            let none = ptr::null_mut::<c_void>();
            libc::clone(wait_and_execute, top.cast(), flags, argument, none, none, inside)
        };
        assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
        fs::read(format!("/proc/{pid}/stat")).expect("it is there");
        bare.insert(&format!("floor-{round}"), pid.cast_unsigned());
        shared.gate.store(1, Ordering::Release);
        let _ = futex::wake(&shared.gate, futex::Flags::PRIVATE, 1);
        while shared.inside.load(Ordering::Acquire) != 0 {
            let _ = futex::wait(&shared.inside, futex::Flags::empty(), 1, None);
        }
        Raw(pid)
    });
    child.wait();
    took
}

extern "C" fn wait_and_execute(shared: *mut c_void) -> c_int {
    // SAFETY: the parent waits until this child has left the memory.
    let shared = unsafe { &*shared.cast::<Shared<'_>>() };
    let mut spins = 0_usize;
    while shared.gate.load(Ordering::Acquire) == 0 && spins < SPINS {
        hint::spin_loop();
        spins = spins.wrapping_add(1);
    }
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    while shared.gate.load(Ordering::Acquire) == 0 {
        let none = ptr::null::<libc::timespec>();
        // SAFETY: the word lives as long as the parent waits.
        unsafe { libc::syscall(libc::SYS_futex, shared.gate.as_ptr(), wait, 0, none) };
    }
    shared.program.execute()
}
