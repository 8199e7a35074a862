//! The stack on which a child runs until exec.

#![expect(unsafe_code, reason = "mmap of a stack")]

use std::{cell::RefCell, ffi::c_void, ptr};

use crate::error::{Error, Result};

/// Size of the stack: the child needs a few hundred bytes, in an unoptimized build some thousands.
const STACK_SIZE: usize = 64 << 10;
/// Size of the inaccessible area below the stack, at least one page on every kernel. An overflow
/// kills the child instead of writing into the host's memory.
const GUARD_SIZE: usize = 64 << 10;

thread_local! {
    /// Stacks that this thread has used and keeps: one, or two if it has created a child by another
    /// thread.
    static KEPT: RefCell<Vec<Stack>> = const { RefCell::new(Vec::new()) };
}

/// A mapping with an inaccessible area at its low end.
#[derive(Debug)]
pub(super) struct Stack {
    base: *mut c_void,
}

impl Stack {
    /// Returns a stack that the calling thread has kept, or a new one.
    pub(super) fn take() -> Result<Self> {
        KEPT.with_borrow_mut(Vec::pop).map_or_else(Self::new, Ok)
    }

    /// Keeps the stack for the next child of the calling thread.
    pub(super) fn give_back(self) {
        // A thread that is about to end does not keep it.
        let mut own = Some(self);
        let _ = KEPT.try_with(|kept| kept.borrow_mut().extend(own.take()));
    }

    fn new() -> Result<Self> {
        let failed = |message: &str| Error::os(message, std::io::Error::last_os_error());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping overlaps nothing.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), GUARD_SIZE + STACK_SIZE, libc::PROT_NONE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(failed("failed to map a stack for the child"));
        }
        let stack = Self { base };
        // SAFETY: the range lies within the mapping just made.
        let result = unsafe {
            libc::mprotect(stack.bottom(), STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE)
        };
        if result != 0 {
            return Err(failed("failed to make the child's stack writable"));
        }
        Ok(stack)
    }

    /// Returns the lowest usable address, as clone3(2) requires.
    pub(super) fn bottom(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_SIZE)
    }

    /// Returns one past the highest address, aligned to 16 bytes, as clone(2) requires.
    pub(super) fn top(&self) -> *mut c_void {
        self.bottom().wrapping_byte_add(STACK_SIZE)
    }

    pub(super) const SIZE: usize = STACK_SIZE;
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and its child has left it: the caller waited for that.
        unsafe { libc::munmap(self.base, GUARD_SIZE + STACK_SIZE) };
    }
}
