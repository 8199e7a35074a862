//! System calls without libc.
//!
//! Between clone and exec the child shares the memory of its parent, including the errno of the
//! thread that created it. A libc wrapper would write that errno, take locks or allocate; these
//! functions only enter the kernel. They return the kernel's results, in which negative numbers are
//! errnos.
#![expect(unsafe_code, reason = "system calls by instruction")]

use core::{arch::asm, ffi::c_void};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("procledger supports the system call instructions of x86_64 and aarch64 only");

/// Enters the kernel with up to five arguments.
///
/// # Safety
///
/// The arguments must be as the system call named by `number` requires.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn syscall(number: i64, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the x86_64 system call convention (syscall(2)): rcx and r11 are clobbered, nothing
    // else; the caller is responsible for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Enters the kernel with up to five arguments.
///
/// # Safety
///
/// The arguments must be as the system call named by `number` requires.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) unsafe fn syscall(number: i64, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the aarch64 system call convention (syscall(2)): only x0 is changed; the caller is
    // responsible for the arguments.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            options(nostack),
        );
    }
    result
}

/// Creates a child by clone(2) or clone3(2) that runs `entry(argument)` on the new stack given in
/// `args`.
///
/// The parent gets the child's pid or a negative errno; the child never returns from here.
///
/// # Safety
///
/// `args` must be valid for `number`, and name a stack that is large enough and aligned to
/// 16 bytes. Stack and argument must remain valid until the child has left this memory. `entry`
/// must be sound in a process that shares all memory with its parent, and its thread-local memory
/// with the thread that created it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn clone_onto(
    number: i64,
    args: [usize; 5],
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> isize {
    let result: isize;
    // SAFETY: in the parent as `syscall`. The child starts with all registers copied except rax and
    // rsp, so r12 and r13 have the values that were put there; it leaves through `entry`, which
    // does not return.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Creates a child by clone(2) or clone3(2) that runs `entry(argument)` on the new stack given in
/// `args`.
///
/// The parent gets the child's pid or a negative errno; the child never returns from here.
///
/// # Safety
///
/// `args` must be valid for `number`, and name a stack that is large enough and aligned to
/// 16 bytes. Stack and argument must remain valid until the child has left this memory. `entry`
/// must be sound in a process that shares all memory with its parent, and its thread-local memory
/// with the thread that created it.
#[cfg(target_arch = "aarch64")]
pub(super) unsafe fn clone_onto(
    number: i64,
    args: [usize; 5],
    entry: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> isize {
    let result: isize;
    // SAFETY: in the parent as `syscall`. The child starts with all registers copied except x0 and
    // sp, so x20 and x21 have the values that were put there; it leaves through `entry`, which does
    // not return.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x20") argument,
            in("x21") entry,
            lateout("x30") _,
        );
    }
    result
}
