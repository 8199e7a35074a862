//! The gate, at which a child waits until its row is committed.
//!
//! It is one word in memory that child and host share: the host opens the gate or refuses, the
//! child may give up waiting, and one compare-and-swap decides between them. A child that arrives
//! at an open gate does not wait at all.

use std::{
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::thread::futex;

use crate::sys::{PidFd, pidfd::Signal, poll::timespec};

/// How often a child at the gate checks its parent: PDEATHSIG alone leaves a window between clone
/// and prctl(2).
pub(super) const GATE_TICK: Duration = Duration::from_secs(1);
/// How long a child waits before it gives up: far longer than SQLite's busy timeout, so this is
/// only reached on a hung disk.
pub(crate) const GATE_LIMIT: Duration = Duration::from_mins(1);

/// The states of the gate's word.
pub(super) mod word {
    pub(in crate::sys::spawn) const SHUT: u32 = 0;
    pub(in crate::sys::spawn) const OPEN: u32 = 1;
    pub(in crate::sys::spawn) const REFUSED: u32 = 2;
    pub(in crate::sys::spawn) const EXPIRED: u32 = 3;
}

/// The steps of a child; the last one that it stored shows where it failed.
pub(super) mod step {
    pub(in crate::sys::spawn) const PARENT: u32 = 1;
    pub(in crate::sys::spawn) const SESSION: u32 = 2;
    pub(in crate::sys::spawn) const GROUP: u32 = 3;
    pub(in crate::sys::spawn) const STDIO: u32 = 4;
    pub(in crate::sys::spawn) const DESCRIPTORS: u32 = 5;
    pub(in crate::sys::spawn) const LIMITS: u32 = 6;
    pub(in crate::sys::spawn) const GATE: u32 = 7;
    pub(in crate::sys::spawn) const NICE: u32 = 8;
    pub(in crate::sys::spawn) const USER: u32 = 9;
    pub(in crate::sys::spawn) const DIRECTORY: u32 = 10;
    pub(in crate::sys::spawn) const TERMINAL: u32 = 11;
    pub(in crate::sys::spawn) const EXEC: u32 = 12;
    pub(in crate::sys::spawn) const FURTHER: u32 = 13;
}

/// No child was created.
pub(super) const NOT_CREATED: u32 = u32::MAX;

/// The memory that a child and its host share.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(super) word: AtomicU32,
    pub(super) step: AtomicU32,
    pub(super) errno: AtomicI32,
    /// Written by the kernel before the child's first instruction (`CLONE_PIDFD`).
    pub(super) pidfd: AtomicI32,
    /// The child's pid, for a thread that did not create it; [`NOT_CREATED`] if none could be
    /// created.
    pub(super) child_pid: AtomicU32,
    /// Nonzero while the child is in the host's memory. The kernel clears it, and wakes the waiting
    /// threads (`CLONE_CHILD_CLEARTID`, see `set_tid_address(2)`).
    pub(super) inside: AtomicU32,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(word::SHUT),
            step: AtomicU32::new(0),
            errno: AtomicI32::new(0),
            pidfd: AtomicI32::new(-1),
            child_pid: AtomicU32::new(0),
            inside: AtomicU32::new(1),
        }
    }
}

impl Gate {
    /// Opens the gate because the row is committed: the child may become its program.
    pub(crate) fn open(&self) {
        self.decide(word::OPEN);
    }

    /// Refuses: the child must never run its program. Does nothing once the gate is open.
    pub(crate) fn refuse(&self) {
        self.decide(word::REFUSED);
    }

    fn decide(&self, answer: u32) {
        // Fails if the gate is already decided, or if the child has given up; then it is dead, and
        // never ran its program.
        let shut = word::SHUT;
        if self.word.compare_exchange(shut, answer, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let _ = futex::wake(&self.word, futex::Flags::PRIVATE, 1);
        }
    }

    /// Returns the step that the child reached, and the errno there; for [`super::failure`].
    pub(crate) fn reached(&self) -> (u32, i32) {
        (self.step.load(Ordering::Acquire), self.errno.load(Ordering::Acquire))
    }

    /// Waits for a child that another thread creates; returns its pid, or [`NOT_CREATED`].
    pub(super) fn wait_until_created(&self) -> u32 {
        loop {
            match self.child_pid.load(Ordering::Acquire) {
                0 => {
                    let _ = futex::wait(&self.child_pid, futex::Flags::PRIVATE, 0, None);
                }
                child_pid => return child_pid,
            }
        }
    }

    /// Waits until the child has left the host's memory, by exec or by death.
    ///
    /// A SIGSTOP to the host's process group that reaches the child just before it leaves that
    /// group would stop it for good, since the SIGCONT is sent only to the group. So a child that
    /// does not arrive at the gate is continued, and so is a child that has become another user,
    /// which that user can stop.
    pub(super) fn wait_until_left(&self, child: &PidFd) {
        let tick = timespec(GATE_TICK);
        let mut last_check = Instant::now();
        while self.inside.load(Ordering::Acquire) != 0 {
            // The kernel wakes waiters by a futex that is not private.
            let _ = futex::wait(&self.inside, futex::Flags::empty(), 1, Some(&tick));
            if last_check.elapsed() < GATE_TICK {
                continue;
            }
            last_check = Instant::now();
            if self.step.load(Ordering::Acquire) != step::GATE {
                let _ = child.send(Signal::CONT);
            }
            // Older kernels do not clear the word for a child that dumps core.
            if child.is_dead().unwrap_or(false) {
                return;
            }
        }
    }
}
