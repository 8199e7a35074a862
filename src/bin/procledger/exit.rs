//! Exit codes, and the one-line message of a failure.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed |
//! | 2 | usage |
//! | 3 | something survived |
//!
//! `run` exits with its program's code (128 + signal if a signal ended it; never 0 if something
//! else ended it) and has codes of its own: 75 the task already runs, 124 it ran for longer than it
//! may, 125 a failure of its own, 126 not executable, 127 not found. `wait` exits like the `run` of
//! the task, with 75 if the task is still running after `--timeout`, and with 127 if there is no
//! such task.

use std::{error::Error as StdError, io, process::ExitCode};

use procledger::ExitStatus;

/// The shell's command for the limit on descriptors.
const DESCRIPTOR_LIMIT: &str = "`ulimit -n`";

/// A process exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    pub(crate) const DONE: Self = Self(0);
    pub(crate) const FAILED: Self = Self(1);
    pub(crate) const USAGE: Self = Self(2);
    pub(crate) const SURVIVED: Self = Self(3);
    /// `EX_TEMPFAIL` of sysexits.h: the task is already running; try again later.
    pub(crate) const ALREADY_RUNNING: Self = Self(75);
    /// As timeout(1).
    pub(crate) const TIMED_OUT: Self = Self(124);
    pub(crate) const RUN_FAILED: Self = Self(125);
    pub(crate) const NOT_EXECUTABLE: Self = Self(126);
    pub(crate) const NOT_FOUND: Self = Self(127);

    /// Returns the code as a number.
    pub(crate) fn code(self) -> i32 {
        self.0.into()
    }

    /// Returns the code that a shell reports for a program that this signal ended.
    pub(crate) fn signal(signal: i32) -> Self {
        Self(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX))
    }

    /// Returns the program's exit code; `None` if its end was not observed.
    pub(crate) fn of_program(status: ExitStatus) -> Option<Self> {
        match status {
            ExitStatus::Exited(code) => Some(Self(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            ExitStatus::Signaled(signal) => Some(Self::signal(signal)),
            ExitStatus::Unobserved => None,
        }
    }

    /// Returns the code for a program that was ended: its own, but never success, and that of
    /// SIGTERM if it was not observed.
    pub(crate) fn of_ended_program(status: ExitStatus) -> Self {
        match Self::of_program(status) {
            Some(exit) if exit != Self::DONE => exit,
            _ => Self::signal(libc::SIGTERM),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// Why the command failed, in one line, and the code to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::FAILED, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::USAGE, message: message.into() }
    }

    /// Creates a failure of `what`, caused by `error`.
    pub(crate) fn because(what: impl Into<String>, error: &(dyn StdError + 'static)) -> Self {
        Self::new(format!("{}: {}", what.into(), chain(error)))
    }

    pub(crate) fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl From<procledger::Error> for Failure {
    fn from(error: procledger::Error) -> Self {
        Self::new(chain(&error))
    }
}

/// Returns the exit code of `run` for an error before the program runs.
pub(crate) fn of_run_error(error: &procledger::Error) -> Exit {
    if error.is_already_running() {
        return Exit::ALREADY_RUNNING;
    }
    if !error.is_not_started() {
        return Exit::RUN_FAILED;
    }
    of_exec_errno(error.raw_os_error())
}

fn of_exec_errno(errno: Option<i32>) -> Exit {
    match errno {
        Some(libc::ENOENT) => Exit::NOT_FOUND,
        // The errors of execve(2) that concern the file. EAGAIN, ENOMEM and EMFILE concern this
        // process.
        Some(
            libc::EACCES
            | libc::ENOEXEC
            | libc::EPERM
            | libc::ENOTDIR
            | libc::EISDIR
            | libc::ELOOP
            | libc::ENAMETOOLONG
            | libc::ETXTBSY
            | libc::ELIBBAD
            | libc::EINVAL
            | libc::E2BIG,
        ) => Exit::NOT_EXECUTABLE,
        _ => Exit::RUN_FAILED,
    }
}

/// Formats an error and its causes in one line, without causes that the line already contains.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut errno = error.downcast_ref().and_then(io::Error::raw_os_error);
    let mut source = error.source();
    while let Some(cause) = source {
        errno = errno.or_else(|| cause.downcast_ref().and_then(io::Error::raw_os_error));
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    // Any system call that opens something can fail this way.
    if errno == Some(libc::EMFILE) && !line.contains(DESCRIPTOR_LIMIT) {
        line.push_str(": raise the limit on descriptors (");
        line.push_str(DESCRIPTOR_LIMIT);
        line.push(')');
    }
    line
}

/// A write to stdout failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::because("failed to write to standard output", &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_exits_as_its_program_did() {
        assert_eq!(Exit::of_program(ExitStatus::Exited(0)), Some(Exit::DONE));
        assert_eq!(Exit::of_program(ExitStatus::Exited(7)), Some(Exit(7)));
        assert_eq!(Exit::of_program(ExitStatus::Exited(255)), Some(Exit(255)));
        assert_eq!(Exit::of_program(ExitStatus::Signaled(libc::SIGTERM)), Some(Exit(143)));
        assert_eq!(Exit::of_program(ExitStatus::Signaled(64)), Some(Exit(192)));
        assert_eq!(Exit::of_program(ExitStatus::Unobserved), None);
        assert_eq!(Exit::of_ended_program(ExitStatus::Exited(0)), Exit(143));
        assert_eq!(Exit::of_ended_program(ExitStatus::Exited(3)), Exit(3));
    }

    #[test]
    fn a_program_that_did_not_start_exits_as_from_a_shell() {
        assert_eq!(of_exec_errno(Some(libc::ENOENT)), Exit(127));
        assert_eq!(of_exec_errno(Some(libc::EACCES)), Exit(126));
        assert_eq!(of_exec_errno(Some(libc::ENOEXEC)), Exit(126));
        assert_eq!(of_exec_errno(Some(libc::EAGAIN)), Exit(125));
        assert_eq!(of_exec_errno(None), Exit(125));
    }

    #[test]
    fn a_line_names_each_cause_once() {
        let inner = io::Error::other("no space");
        let outer = io::Error::other(inner);
        assert_eq!(chain(&outer), "no space");
        assert_eq!(
            Failure::because("failed to write", &outer).message,
            "failed to write: no space"
        );
    }
}
