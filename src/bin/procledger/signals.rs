//! Signals taken from a descriptor instead of a handler.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
};

use crate::exit::{Exit, Failure, Result};

/// What asks a service to stop.
pub(crate) const STOP: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// What `run` hands on. The last three would otherwise end `run` and leave its program without an owner.
pub(crate) const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Signals that are blocked, and wait to be read.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals {
    /// Blocks `which` in this thread and in those that it starts; so before any other thread runs. What the caller had
    /// ignored for us, as `nohup` does, stays ignored.
    pub(crate) fn block(which: &[Signal]) -> Result<Self> {
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |text| ignored(&text));
        let mut set = SigSet::empty();
        for &signal in which.iter().filter(|&&signal| ignored & bit(signal) == 0) {
            set.add(signal);
        }
        set.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Self)
            .map_err(|error| Failure::because("failed to set up signals", &error))
    }

    /// Runs `work`; a signal that comes meanwhile ends this process as if it had not been blocked.
    ///
    /// Threads that `work` starts inherit the blocked signals, so the signals cannot simply stay unblocked until they are needed.
    /// The exit is that of a crash, which `work` must stand; where the signal is one that cannot end us, as for the first process
    /// of a PID namespace, the exit code says which it was.
    pub(crate) fn end_us_during<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let (done, end) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| Failure::because("failed to create a pipe", &error))?;
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Ok(Some(signal)) = self.next_until(&done) {
                    let exit = die_by(signal);
                    std::process::exit(exit.code());
                }
            });
            // Dropped also when `work` panics: otherwise the scope would wait for the thread.
            let _end = end;
            Ok(work())
        })
    }

    /// The next signal; `None` once the other end of `done` is closed.
    fn next_until(&self, done: &OwnedFd) -> io::Result<Option<i32>> {
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(done, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // What comes when the work is done is not ours to take.
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            if let Some(signal) = self.pending()? {
                return Ok(Some(signal));
            }
        }
    }

    /// The next signal, if one has come.
    pub(crate) fn pending(&self) -> io::Result<Option<i32>> {
        let next = self.0.read_signal()?;
        Ok(next.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }

    /// Waits for the next signal.
    pub(crate) fn next(&self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.pending()? {
                return Ok(signal);
            }
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Ends this process by a signal that [`Signals`] had blocked, so that a shell or a loop around it sees that it was interrupted;
/// should that fail, answers with the code that a shell would give it.
pub(crate) fn die_by(signal: i32) -> Exit {
    if let Ok(signal) = Signal::try_from(signal) {
        let mut set = SigSet::empty();
        set.add(signal);
        // Blocked, it waits for this thread alone.
        let _ = nix::sys::signal::raise(signal);
        let _ = set.thread_unblock();
    }
    Exit::signal(signal)
}

/// A write beyond `ulimit -f` shall fail, and not end whoever answers for programs. Before any other thread runs; programs
/// that are started get no signal blocked.
pub(crate) fn outlive_file_limit() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    // Fails only for a bad argument.
    let _ = set.thread_block();
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// The mask in `SigIgn:` of `proc_pid_status(5)`.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_ignored_is_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        let mask = ignored(status);
        assert_ne!(mask & bit(Signal::SIGHUP), 0);
        assert_ne!(mask & bit(Signal::SIGPIPE), 0);
        assert_eq!(mask & bit(Signal::SIGTERM), 0);
        assert_eq!(ignored("nothing"), 0);
    }
}
