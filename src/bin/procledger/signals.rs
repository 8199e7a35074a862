//! Signals taken from a descriptor instead of a handler.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, getpgid, getpgrp, getppid, getsid},
};
use procledger::SignalState;
use rustix::{
    event::{PollFd, PollFlags},
    pipe::{PipeFlags, pipe_with},
    process::{Resource, Rlimit, setrlimit},
};

use crate::{
    exit::{Exit, Failure, Result},
    poll::poll_within,
    threads,
};

/// Signals that ask a service to stop.
pub(crate) const STOP: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Signals that `run` does not forward: those that cannot be caught, those that report an error of
/// the thread that gets them, and those that concern only the process itself.
const NOT_FORWARDED: [Signal; 12] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
];

/// Returns whether `run` forwards a signal: it can be blocked, and is not for a process itself or
/// for the C library.
pub(crate) fn is_forwarded(signal: i32) -> bool {
    match Signal::try_from(signal) {
        Ok(signal) => !NOT_FORWARDED.contains(&signal),
        Err(_) => (34..=64).contains(&signal),
    }
}

/// The default action of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    End,
    Stop,
    Ignore,
}

/// Returns the default action of one of the signals that are blocked here (signal(7)).
fn default_action(signal: i32) -> Action {
    match signal {
        signal if stops(signal) => Action::Stop,
        libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => Action::Ignore,
        _ => Action::End,
    }
}

/// Returns whether a signal is one by which a terminal stops a job.
pub(crate) fn stops(signal: i32) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal)
}

/// Returns whether a signal is one by which jobs are stopped, continued and ended. `kill` of a
/// shell may send any other one to `run` alone or to its group, which looks the same here; then the
/// program alone gets it, since the default action of most is to end a process.
fn controls_jobs(signal: i32) -> bool {
    let ends = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM];
    stops(signal) || signal == libc::SIGCONT || ends.contains(&signal)
}

/// A signal that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) signal: i32,
    /// Whether our whole process group got it.
    pub(crate) by_group: bool,
}

/// Returns whether the terminal has sent a signal: no process, but the kernel, for a key, a new
/// size, a hangup, or another member of the group that used it in the background.
fn is_of_terminal(signal: i32, code: i32) -> bool {
    let sent = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH, libc::SIGHUP];
    code == libc::SI_KERNEL && (sent.contains(&signal) || stops(signal))
}

/// Returns whether a process that signals us signals our whole group: a shell with job control,
/// which has made the group for us and by `kill %1` signals all of it, or another member, as `run`
/// in a pipeline does. In a script a group is no job.
fn is_of_job(sender: u32) -> bool {
    let (own, parent) = (getpgrp(), getppid());
    let group = |pid| getpgid(Some(pid)).ok();
    let Ok(sender) = i32::try_from(sender).map(Pid::from_raw) else { return false };
    let is_job = sender.as_raw() > 0
        && parent.as_raw() > 0
        && group(parent).is_some_and(|group| group != own)
        && getsid(Some(parent)) == getsid(None);
    is_job && (sender == parent || group(sender) == Some(own))
}

/// Signals that are blocked and read from a descriptor.
#[derive(Debug)]
pub(crate) struct Signals {
    set: SigSet,
    fd: SignalFd,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Signals {
    /// Blocks `which` in this thread and in those that it starts, so call it before any other
    /// thread runs. Signals that were ignored at the start, as by `nohup`, stay ignored.
    pub(crate) fn block(which: &[Signal]) -> Result<Self> {
        let mut set = SigSet::empty();
        for &signal in which {
            set.add(signal);
        }
        Self::block_set(set)
    }

    /// Blocks, in the same way, every signal that can be forwarded, real-time signals included.
    /// With SIGTTOU blocked, a terminal with `tostop` (stty(1)) does not stop this process at a
    /// line of its own while the program has the terminal.
    pub(crate) fn block_all() -> Result<Self> {
        let mut set = SigSet::all();
        for signal in NOT_FORWARDED {
            set.remove(signal);
        }
        Self::block_set(set)
    }

    fn block_set(mut set: SigSet) -> Result<Self> {
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |text| ignored(&text));
        for signal in Signal::iterator().filter(|&signal| ignored & bit(signal) != 0) {
            set.remove(signal);
        }
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(|fd| Self { set, fd })
            .map_err(|error| Failure::because("failed to set up signals", &error))
    }

    /// Runs `work`; a signal that arrives meanwhile has its default action, as if it were not
    /// blocked.
    ///
    /// Threads that `work` starts must block them. The exit is like a crash, which `work` must
    /// tolerate. A signal without a handler does nothing to PID 1 of a PID namespace, so there it
    /// ends it with the exit code that says which signal it was.
    pub(crate) fn end_us_during<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        if std::process::id() == 1 {
            return self.end_us_by_a_thread_during(work);
        }
        // Here too, a line of our own must not stop this process.
        let mut set = self.set;
        set.remove(Signal::SIGTTOU);
        let _blocked_again = Unblocked::new(set);
        Ok(work())
    }

    fn end_us_by_a_thread_during<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let (done, end) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| Failure::because("failed to create a pipe", &error))?;
        thread::scope(|scope| {
            threads::start_in(scope, "procledger-signals", || {
                while let Ok(Some(signal)) = self.next_until(&done) {
                    act_by_default(signal);
                }
            })?;
            // Dropped also when `work` panics: otherwise the scope would wait for the thread.
            let _end = end;
            Ok(work())
        })
    }

    /// Waits for the next signal; returns `None` once the other end of `done` is closed.
    fn next_until(&self, done: &OwnedFd) -> io::Result<Option<i32>> {
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(done, PollFlags::IN)];
            poll_within(&mut fds, None)?;
            // A signal that arrives after the work is done is for the caller.
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            if let Some(signal) = self.pending()? {
                return Ok(Some(signal));
            }
        }
    }

    /// Gives the signals that are pending their default actions.
    pub(crate) fn act_on_pending(&self) {
        while let Ok(Some(signal)) = self.pending() {
            act_by_default(signal);
        }
    }

    /// Returns the next signal, if one is pending.
    pub(crate) fn pending(&self) -> io::Result<Option<i32>> {
        self.received().map(|next| next.map(|received| received.signal))
    }

    /// Returns the next signal, if one is pending, and where it comes from.
    pub(crate) fn received(&self) -> io::Result<Option<Received>> {
        let next = self.fd.read_signal()?;
        Ok(next.and_then(|info| {
            let signal = i32::try_from(info.ssi_signo).ok()?;
            let by_job = || {
                info.ssi_code == libc::SI_USER && controls_jobs(signal) && is_of_job(info.ssi_pid)
            };
            Some(Received { signal, by_group: is_of_terminal(signal, info.ssi_code) || by_job() })
        }))
    }

    /// Waits for the next signal.
    pub(crate) fn next(&self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.pending()? {
                return Ok(signal);
            }
            poll_within(&mut [PollFd::new(&self.fd, PollFlags::IN)], None)?;
        }
    }
}

/// Signals that this thread does not block until this is dropped, also when it panics.
struct Unblocked(SigSet);

impl Unblocked {
    fn new(set: SigSet) -> Self {
        // Both fail only for a bad argument.
        let _ = set.thread_unblock();
        Self(set)
    }
}

impl Drop for Unblocked {
    fn drop(&mut self) {
        let _ = self.0.thread_block();
    }
}

/// Performs the default action of a signal that [`Signals`] had blocked.
pub(crate) fn act_by_default(signal: i32) {
    match default_action(signal) {
        Action::Ignore => {}
        Action::Stop => raise_unblocked(signal),
        Action::End => {
            let exit = die_by(signal);
            std::process::exit(exit.code());
        }
    }
}

/// Raises a blocked signal for this thread alone; returns if it did not end this process.
fn raise_unblocked(signal: i32) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    let mut set = SigSet::empty();
    set.add(signal);
    // It is blocked, so it stays pending for this thread.
    let _ = nix::sys::signal::raise(signal);
    let _ = set.thread_unblock();
    let _ = set.thread_block();
}

/// Ends this process by a signal that [`Signals`] had blocked, so that a shell or a loop around it
/// sees that it was interrupted; if that fails, returns the code that a shell would report for it.
pub(crate) fn die_by(signal: i32) -> Exit {
    // A dump of this process would not be one of the program.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    raise_unblocked(signal);
    Exit::signal(signal)
}

/// Does the same, after sending the signal to this process group, as a terminal does to all
/// processes of its foreground job: the program had a group of its own. A script around this
/// process is interrupted, too.
pub(crate) fn die_with_group_by(signal: i32) -> Exit {
    if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
        let _ = rustix::process::kill_current_process_group(signal);
        // Meanwhile another `run` in the group can see that a member has sent it.
        thread::sleep(Duration::from_millis(20));
    }
    die_by(signal)
}

/// The signals that this process ignored and blocked when it started.
static AT_START: OnceLock<SignalState> = OnceLock::new();

/// Returns the signals that this process ignored and blocked when it started.
pub(crate) fn inherited() -> SignalState {
    AT_START.get().copied().unwrap_or_default()
}

/// Makes this process fit to own programs, whatever signals its caller ignored: the exit statuses
/// of its children are kept, and a write beyond `ulimit -f` fails instead of ending it (SIGXFSZ).
/// Must be called before any other thread runs.
pub(crate) fn take_over() {
    AT_START.get_or_init(SignalState::current);
    SignalState::stop_ignoring_children();
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    // It fails only for a bad argument.
    let _ = set.thread_block();
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// Reads the mask in `SigIgn:` of `proc_pid_status(5)`.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_ends_nothing_and_real_time_signals_do() {
        assert_eq!(default_action(libc::SIGWINCH), Action::Ignore);
        for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
            assert_eq!(default_action(signal), Action::Stop, "{signal}");
        }
        for signal in [libc::SIGTERM, libc::SIGALRM, libc::SIGPWR, 34, 64] {
            assert_eq!(default_action(signal), Action::End, "{signal}");
        }
    }

    #[test]
    fn signals_ignored_by_nohup_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        let mask = ignored(status);
        assert_ne!(mask & bit(Signal::SIGHUP), 0);
        assert_ne!(mask & bit(Signal::SIGPIPE), 0);
        assert_eq!(mask & bit(Signal::SIGTERM), 0);
        assert_eq!(ignored("nothing"), 0);
    }
}
