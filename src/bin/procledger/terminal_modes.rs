//! The modes of the terminal, such as echo and line editing: saved, and restored after a program
//! that was killed.

use std::{fs::File, os::unix::fs::OpenOptionsExt};

use rustix::{
    process::getpgrp,
    termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

/// The modes of the session's terminal, as they were when this was created.
#[derive(Debug)]
pub(crate) struct TerminalModes {
    terminal: File,
    modes: Termios,
}

impl TerminalModes {
    /// Returns `None` if the session has no terminal.
    pub(crate) fn save() -> Option<Self> {
        let flags = libc::O_NOCTTY;
        let terminal =
            File::options().read(true).write(true).custom_flags(flags).open("/dev/tty").ok()?;
        let modes = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, modes })
    }

    /// Restores the modes, if this process is in the foreground: a program that was killed could
    /// not do so.
    pub(crate) fn restore(&self) {
        if tcgetpgrp(&self.terminal).is_ok_and(|group| group == getpgrp()) {
            // If it fails, the terminal has hung up.
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.modes);
        }
    }
}
