//! The controlling terminal and its foreground process group.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};

use crate::{
    error::{Error, Result},
    identity::Pid,
};

/// Reports whether standard input is a terminal whose foreground group is ours.
pub(crate) fn is_foreground() -> bool {
    let stdin = rustix::stdio::stdin();
    rustix::termios::isatty(stdin)
        && rustix::termios::tcgetpgrp(stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// The terminal of our session.
#[derive(Debug)]
pub(crate) struct Terminal(OwnedFd);

impl Terminal {
    /// Opens the terminal; `None` if the session has none.
    pub(crate) fn open() -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open("/dev/tty", flags, Mode::empty()).ok().map(Self)
    }

    /// Reports whether the foreground group of the terminal is ours.
    pub(crate) fn is_ours(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.0).is_ok_and(|group| group == rustix::process::getpgrp())
    }

    /// Returns its foreground group; `None` if that is in another PID namespace, or the terminal
    /// has hung up.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        let group = rustix::termios::tcgetpgrp(&self.0).ok()?;
        Pid::new(i64::from(group.as_raw_nonzero().get()))
    }

    /// Makes a process group of our session the foreground group.
    pub(crate) fn give_to(&self, group: Pid) -> Result<()> {
        let number = rustix::process::Pid::from_raw(group.raw())
            .ok_or_else(|| Error::invalid("pid 0 is not a process group"))?;
        self.set_foreground(number).map_err(|error| {
            Error::os(format!("failed to give the terminal to group {group}"), error)
        })
    }

    /// Makes our own group the foreground group again. A terminal that has hung up cannot be taken
    /// back, and need not be.
    pub(crate) fn take_back(&self) -> Result<()> {
        match self.set_foreground(rustix::process::getpgrp()) {
            Err(nix::Error::EIO | nix::Error::ENOTTY) | Ok(()) => Ok(()),
            Err(error) => Err(Error::os("failed to take the terminal back", error)),
        }
    }

    /// Sets the foreground group, with SIGTTOU blocked: otherwise that signal would stop a
    /// background group that does this (tcsetpgrp(3)).
    fn set_foreground(&self, group: rustix::process::Pid) -> Result<(), nix::Error> {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let result = rustix::termios::tcsetpgrp(self.0.as_fd(), group);
        before.thread_set_mask()?;
        result.map_err(|error| nix::Error::from_raw(error.raw_os_error()))
    }
}

/// Stops our whole process group, as the terminal does by SIGTSTP, SIGTTIN or SIGTTOU; returns when
/// this process is continued.
///
/// If this thread blocks the signal, the group gets it: another host in the group, as in `host a |
/// host b`, can then stop its program as well. Otherwise the group gets SIGSTOP: this process would
/// not know when the signal has stopped it.
///
/// This uses no pid that might have been reused: 0 means our own group.
pub(crate) fn stop_own_group(signal: i32) -> Result<()> {
    let blocked = SigSet::thread_get_mask().unwrap_or(SigSet::empty());
    let is_blocked = Signal::try_from(signal).is_ok_and(|signal| blocked.contains(signal));
    let signal = rustix::process::Signal::from_named_raw(signal).filter(|_| is_blocked);
    let sent = signal.unwrap_or(rustix::process::Signal::STOP);
    rustix::process::kill_current_process_group(sent)
        .map_err(|error| Error::os("failed to stop this process group", error))?;
    // SIGCONT discards the signal that is pending here.
    if signal.is_some() { stop_this_process() } else { Ok(()) }
}

/// Stops this process alone; returns when it is continued.
pub(crate) fn stop_this_process() -> Result<()> {
    nix::sys::signal::raise(Signal::SIGSTOP)
        .map_err(|error| Error::os("failed to stop this process", error))
}
