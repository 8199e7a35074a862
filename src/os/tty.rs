//! The terminal's foreground process group.

use std::os::fd::AsFd;

use crate::{
    error::{Error, Result},
    identity::Pid,
};

/// Whether standard input is a terminal whose foreground group is ours.
pub(crate) fn is_foreground() -> bool {
    let stdin = rustix::stdio::stdin();
    rustix::termios::isatty(stdin)
        && rustix::termios::tcgetpgrp(stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Gives the terminal on standard input to a process group of our session.
///
/// SIGTTOU must be blocked or ignored when ours is not the foreground group (tcsetpgrp(3)).
pub(crate) fn give_to(group: Pid) -> Result<()> {
    let group = rustix::process::Pid::from_raw(group.raw())
        .ok_or_else(|| Error::invalid("pid 0 names no group"))?;
    rustix::termios::tcsetpgrp(rustix::stdio::stdin().as_fd(), group).map_err(|error| {
        Error::os(format!("failed to give the terminal to group {}", group.as_raw_nonzero()), error)
    })
}

/// Takes the terminal on standard input back for our own group.
pub(crate) fn take_back() -> Result<()> {
    rustix::termios::tcsetpgrp(rustix::stdio::stdin().as_fd(), rustix::process::getpgrp())
        .map_err(|error| Error::os("failed to take the terminal back", error))
}
