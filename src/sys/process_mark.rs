//! Whether this is still the process in which something was created, or a forked child of it.
//!
//! The PID does not decide: a child that is the first process of a new PID namespace has PID 1, as
//! its parent may have. The kernel clears a page of memory in every forked child instead
//! (`MADV_WIPEONFORK`, Linux 4.14, madvise(2)), and to read it takes no system call.

#![expect(unsafe_code, reason = "a page that the kernel clears in a forked child")]

use std::{
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The first word of a page that is cleared in a forked child; `None` where the kernel does not do
/// that. Set by the first mark.
static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

/// Belongs to the process that created it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessMark {
    pid: u32,
    /// The value in the page; 0 where there is no page.
    value: u64,
}

impl ProcessMark {
    /// Returns the mark of this process.
    pub(crate) fn new() -> Self {
        /// A forked child has a copy, so its next value is one that its parent has not used before.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let value = PAGE.get_or_init(map_page).map_or(0, |word| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            // Where another thread was first, its value stays.
            match word.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => next,
                Err(present) => present,
            }
        });
        Self { pid: std::process::id(), value }
    }

    /// Reports whether the calling process is the one that created the mark. Without the page the
    /// PID decides.
    pub(crate) fn is_of_this_process(self) -> bool {
        // Never waits: a thread that was setting it is missing in a forked child.
        match PAGE.get().copied().flatten() {
            Some(word) if self.value != 0 => word.load(Ordering::Acquire) == self.value,
            _ => self.pid == std::process::id(),
        }
    }
}

fn map_page() -> Option<&'static AtomicU64> {
    // SAFETY: sysconf(3) only returns a number.
    let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping overlaps nothing.
    let page = unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above, and nothing refers to it yet.
        unsafe { libc::munmap(page, size) };
        return None;
    }
    // SAFETY: the page is aligned, zeroed, and never unmapped.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a check in a forked child, which must not allocate, and returns whether it held.
    fn holds_in_a_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe { libc::_exit(i32::from(!check())) },
            child => {
                let mut status = -1;
                // SAFETY: the status is a local variable.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                waited == child && status == 0
            }
        }
    }

    #[test]
    fn a_forked_child_is_another_process_whatever_its_pid_is() {
        let mark = ProcessMark::new();
        assert!(mark.value != 0 && mark.is_of_this_process());
        assert_eq!(ProcessMark::new().value, mark.value, "one page for all");
        assert!(holds_in_a_child(|| {
            // As if the child were the first process of a PID namespace, and its parent that of
            // another one.
            let mark = ProcessMark { pid: std::process::id(), ..mark };
            let own = ProcessMark::new();
            !mark.is_of_this_process() && own.is_of_this_process() && own.value != mark.value
        }));
        assert!(mark.is_of_this_process());
    }

    #[test]
    fn without_a_page_the_pid_decides() {
        let mark = ProcessMark { value: 0, ..ProcessMark::new() };
        assert!(mark.is_of_this_process());
        assert!(holds_in_a_child(|| !mark.is_of_this_process()));
    }
}
