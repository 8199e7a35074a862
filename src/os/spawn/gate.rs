//! Where a child waits until its row is committed.
//!
//! The caller puts an [`Applicant`] on the [`Doorbell`]'s list *before* it makes the child, since it sleeps in the kernel
//! afterwards. The child marks the applicant as waiting and rings; the registrar takes every applicant that waits, commits
//! them in one transaction, and decides each.

#![expect(unsafe_code, reason = "a descriptor's number in shared memory is borrowed")]

use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
    thread::futex,
};

use super::super::{PidFd, pidfd::timespec};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    record::ProcessId,
};

/// A child at the gate looks after its parent this often: PDEATHSIG alone has a window between clone and prctl(2).
pub(super) const GATE_TICK: Duration = Duration::from_secs(1);
/// Then a child gives up: far longer than SQLite's busy timeout, so only a hung disk or a dead registrar gets here.
pub(crate) const GATE_LIMIT: Duration = Duration::from_mins(1);

/// The states of the gate's word.
pub(super) mod word {
    pub(in super::super) const NEW: u32 = 0;
    pub(in super::super) const WAITING: u32 = 1;
    pub(in super::super) const GO: u32 = 2;
    pub(in super::super) const REFUSED: u32 = 3;
    pub(in super::super) const EXPIRED: u32 = 4;
}

/// How far the child came; the last one that it stored tells where it failed.
pub(super) mod step {
    pub(in super::super) const PARENT: u32 = 1;
    pub(in super::super) const SESSION: u32 = 2;
    pub(in super::super) const STDIO: u32 = 3;
    pub(in super::super) const DESCRIPTORS: u32 = 4;
    pub(in super::super) const GATE: u32 = 5;
    pub(in super::super) const DIRECTORY: u32 = 6;
    pub(in super::super) const TERMINAL: u32 = 7;
    pub(in super::super) const EXEC: u32 = 8;
}

/// The memory that child, caller and registrar share.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) word: AtomicU32,
    pub(super) step: AtomicU32,
    pub(super) errno: AtomicI32,
    pub(super) pid: AtomicI32,
    /// The child is born in the leaf that was made for it.
    pub(super) in_leaf: AtomicBool,
    /// Written by the kernel before the child's first instruction (`CLONE_PIDFD`).
    pub(super) pidfd: AtomicI32,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(word::NEW),
            step: AtomicU32::new(0),
            errno: AtomicI32::new(0),
            pid: AtomicI32::new(0),
            in_leaf: AtomicBool::new(false),
            pidfd: AtomicI32::new(-1),
        }
    }
}

/// A child that asks to run, and what its row shall say.
#[derive(Debug)]
pub(crate) struct Applicant<P> {
    pub(crate) payload: P,
    pub(super) gate: Gate,
    decision: Mutex<Option<Result<ProcessId>>>,
    decided: Condvar,
}

impl<P> Applicant<P> {
    pub(crate) fn new(payload: P) -> Arc<Self> {
        Arc::new(Self {
            payload,
            gate: Gate::default(),
            decision: Mutex::new(None),
            decided: Condvar::new(),
        })
    }

    /// Whether the child was born in the leaf that was made for it.
    pub(crate) fn is_in_leaf(&self) -> bool {
        self.gate.in_leaf.load(Ordering::Acquire)
    }

    /// The child's number, and a pidfd to it; `None` where it never came to the gate.
    ///
    /// To be called by whoever took the applicant from the doorbell, before it decides: until then the caller of the spawn
    /// keeps the descriptor open.
    pub(crate) fn child(&self) -> Result<Option<(Pid, PidFd)>> {
        let Some(pid) = Pid::new(i64::from(self.gate.pid.load(Ordering::Acquire))) else {
            return Ok(None);
        };
        // SAFETY: the kernel stored an open descriptor there before the child's first instruction, and the caller of the
        // spawn closes it only after our decision.
        let fd = unsafe { BorrowedFd::borrow_raw(self.gate.pidfd.load(Ordering::Acquire)) };
        let copy = fd
            .try_clone_to_owned()
            .map_err(|error| Error::os("failed to duplicate a pidfd", error))?;
        Ok(Some((pid, PidFd::from_owned(copy))))
    }

    /// The step that the child came to, and the errno there; for [`super::failure`].
    pub(crate) fn reached(&self) -> (u32, i32) {
        (self.gate.step.load(Ordering::Acquire), self.gate.errno.load(Ordering::Acquire))
    }

    /// Opens the gate, or refuses for good. Whoever takes an applicant from the doorbell must decide it.
    pub(crate) fn decide(&self, decision: Result<ProcessId>) {
        let go = decision.is_ok();
        *lock(&self.decision) = Some(decision);
        self.decided.notify_all();
        let answer = if go { word::GO } else { word::REFUSED };
        // Fails where the child has expired: then it is dead, and its caller reads that from the word.
        let _ = self.gate.word.compare_exchange(
            word::WAITING,
            answer,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        let _ = futex::wake(&self.gate.word, futex::Flags::PRIVATE, 1);
    }

    /// What the registrar decided. It has an answer within SQLite's busy timeout; where it is gone there is none.
    pub(super) fn decision(&self) -> Result<ProcessId> {
        let undecided = |decision: &mut Option<Result<ProcessId>>| decision.is_none();
        let decision = lock(&self.decision);
        let waited = self.decided.wait_timeout_while(decision, GATE_LIMIT, undecided);
        let (mut decision, _) = waited.unwrap_or_else(PoisonError::into_inner);
        decision
            .take()
            .unwrap_or_else(|| Err(Error::new(Kind::Other, "the registrar thread does not answer")))
    }
}

/// Where children ring, and the registrar listens.
#[derive(Debug)]
pub(crate) struct Doorbell<P> {
    pub(super) bell: AtomicU32,
    expected: Mutex<Vec<Arc<Applicant<P>>>>,
    closed: AtomicBool,
    /// The registrar sleeps without a limit; only with the list's lock.
    asleep: AtomicBool,
}

impl<P> Default for Doorbell<P> {
    fn default() -> Self {
        Self {
            bell: AtomicU32::new(0),
            expected: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        }
    }
}

impl<P> Doorbell<P> {
    /// Waits for children at the gate and takes them all; `None` once the doorbell is closed and nobody is expected.
    pub(crate) fn answer(&self) -> Option<Vec<Arc<Applicant<P>>>> {
        // After a quiet tick the registrar sleeps without a limit, and the next spawn wakes it.
        let mut quiet = false;
        loop {
            let seen = self.bell.load(Ordering::Acquire);
            let (waiting, expected) = self.take_waiting(quiet);
            if !waiting.is_empty() {
                return Some(waiting);
            }
            if expected == 0 && self.closed.load(Ordering::Acquire) {
                return None;
            }
            let limit = (expected > 0 || !quiet).then(|| timespec(GATE_TICK));
            // Returns at once where the bell rang since it was read.
            let waited = futex::wait(&self.bell, futex::Flags::PRIVATE, seen, limit.as_ref());
            quiet = waited == Err(Errno::TIMEDOUT);
            if quiet {
                self.continue_stopped();
            }
        }
    }

    /// Continues children that do not come to the gate: a SIGSTOP to the host's group that catches a child just before it
    /// leaves that group stops it for good, since the SIGCONT goes to the group alone, and its caller sleeps until it execs.
    fn continue_stopped(&self) {
        let expected = lock(&self.expected);
        for applicant in expected.iter() {
            let number = applicant.gate.pidfd.load(Ordering::Acquire);
            if number >= 0 && applicant.gate.word.load(Ordering::Acquire) == word::NEW {
                // SAFETY: the caller of the spawn closes the descriptor only after it has withdrawn the applicant, for which
                // it needs the lock that is held here.
                let fd = unsafe { BorrowedFd::borrow_raw(number) };
                let _ = pidfd_send_signal(fd, Signal::CONT);
            }
        }
    }

    /// Takes those at the gate; says how many are still expected. With nobody to expect, `rest` sends the registrar to sleep.
    fn take_waiting(&self, rest: bool) -> (Vec<Arc<Applicant<P>>>, usize) {
        let mut expected = lock(&self.expected);
        let waiting = expected
            .extract_if(.., |applicant| applicant.gate.word.load(Ordering::Acquire) != word::NEW)
            .collect();
        self.asleep.store(rest && expected.is_empty(), Ordering::Relaxed);
        (waiting, expected.len())
    }

    /// Lets the registrar end once everyone who is expected has been answered.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn expect(&self, applicant: Arc<Applicant<P>>) -> Result<()> {
        let mut expected = lock(&self.expected);
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                Kind::Closed,
                "the tracker is shut down: no program is started any more",
            ));
        }
        expected.push(applicant);
        // Under the list's lock, so that the registrar either sees the applicant or is woken.
        if self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
        Ok(())
    }

    /// Takes back an applicant; `false` where the registrar has it already and will decide it.
    pub(super) fn withdraw(&self, applicant: &Arc<Applicant<P>>) -> bool {
        let mut expected = lock(&self.expected);
        let before = expected.len();
        expected.retain(|other| !Arc::ptr_eq(other, applicant));
        let withdrawn = expected.len() < before;
        drop(expected);
        if withdrawn {
            // The registrar may have waited for this one alone.
            self.ring();
        }
        withdrawn
    }

    fn ring(&self) {
        self.bell.fetch_add(1, Ordering::AcqRel);
        let _ = futex::wake(&self.bell, futex::Flags::PRIVATE, 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
