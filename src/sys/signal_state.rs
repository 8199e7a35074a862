//! The signals that a process ignores and blocks. A program inherits both through execve(2).

#![expect(
    unsafe_code,
    reason = "dispositions and masks that libc does not show, and a function that runs before Rust's runtime"
)]

use std::{
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::syscall::syscall;

/// Highest signal number of the kernel on the architectures that this crate supports (signal(7)).
pub(super) const SIGNALS: u32 = 64;
/// Size of the kernel's signal set in bytes.
pub(super) const SIGNAL_SET: usize = 8;

/// `struct sigaction` of the kernel, without flags and with an empty mask.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct SignalAction {
    handler: usize,
    others: [usize; 3],
}

impl SignalAction {
    pub(super) const DEFAULT: Self = Self { handler: libc::SIG_DFL, others: [0; 3] };
    pub(super) const IGNORE: Self = Self { handler: libc::SIG_IGN, others: [0; 3] };
}

/// The signals that a program ignores and blocks when it starts; by default none. See
/// [`Job::signals`](crate::Job::signals).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalState {
    /// Bit N - 1 is set for signal N, as in `SigIgn:` of `proc_pid_status(5)`.
    pub(crate) ignored: u64,
    /// The blocked signals, in the same form.
    pub(crate) blocked: u64,
}

impl SignalState {
    pub(super) const fn ignores(self, signal: u32) -> bool {
        self.ignored & bit(signal) != 0
    }

    /// Returns the signals that this process ignores, and those that the calling thread blocks.
    ///
    /// SIGPIPE, which Rust's runtime ignores before `main`, counts as ignored only if it was
    /// ignored even before that.
    #[must_use]
    pub fn current() -> Self {
        let mut state = Self { ignored: 0, blocked: blocked() };
        for signal in 1..=SIGNALS {
            let by_the_runtime = signal == PIPE && !PIPE_WAS_IGNORED.load(Ordering::Relaxed);
            if is_ignored(signal) && !by_the_runtime {
                state.ignored |= bit(signal);
            }
        }
        state
    }

    /// Stops ignoring SIGCHLD, which this process may have inherited as ignored: as long as it is,
    /// the kernel discards the exit statuses of children.
    pub fn stop_ignoring_children() {
        let child = libc::SIGCHLD.cast_unsigned();
        if is_ignored(child) {
            action(child, ptr::from_ref(&SignalAction::DEFAULT), ptr::null_mut());
        }
    }
}

const fn bit(signal: u32) -> u64 {
    1_u64.wrapping_shl(signal.wrapping_sub(1))
}

const PIPE: u32 = libc::SIGPIPE.cast_unsigned();

/// Whether SIGPIPE was ignored before Rust's runtime began to ignore it.
static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// The dynamic linker calls this function before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_pipe;

extern "C" fn note_pipe() {
    PIPE_WAS_IGNORED.store(is_ignored(PIPE), Ordering::Relaxed);
}

fn is_ignored(signal: u32) -> bool {
    let mut now = SignalAction::DEFAULT;
    action(signal, ptr::null(), ptr::from_mut(&mut now));
    now.handler == libc::SIG_IGN
}

/// Sets the disposition of a signal unless `new` is null, and stores the former one unless `old` is
/// null.
fn action(signal: u32, new: *const SignalAction, old: *mut SignalAction) {
    // SAFETY: both are null or point to a `struct sigaction` of the kernel; no handler is
    // installed.
    unsafe {
        syscall(
            libc::SYS_rt_sigaction,
            [signal as usize, new as usize, old as usize, SIGNAL_SET, 0],
        )
    };
}

fn blocked() -> u64 {
    let mut mask = 0_u64;
    let args = [libc::SIG_BLOCK as usize, 0, (&raw mut mask) as usize, SIGNAL_SET, 0];
    // SAFETY: the pointer is to a signal set of the kernel's size.
    unsafe { syscall(libc::SYS_rt_sigprocmask, args) };
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_the_runtime_ignores_is_not_passed_on() {
        // The test runner's own parent may have ignored it.
        if !PIPE_WAS_IGNORED.load(Ordering::Relaxed) {
            assert!(is_ignored(PIPE));
            assert_eq!(SignalState::current().ignored & bit(PIPE), 0);
        }
    }

    #[test]
    fn the_mask_is_that_of_the_calling_thread() {
        let mut set = nix::sys::signal::SigSet::empty();
        set.add(nix::sys::signal::Signal::SIGUSR2);
        std::thread::spawn(move || {
            set.thread_block().expect("blocked");
            assert_ne!(SignalState::current().blocked & bit(libc::SIGUSR2.cast_unsigned()), 0);
        })
        .join()
        .expect("the assertion");
    }
}
