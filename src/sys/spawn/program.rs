//! A command in the form for execve(2), prepared while allocation is still allowed.

use std::{
    ffi::{CStr, CString, OsString, c_char},
    os::unix::ffi::OsStrExt,
    ptr,
};

use super::{child::OWN_PID_DIGITS, command::Command};
use crate::error::{Error, Result};

/// The folders in which a program is searched for if the environment has no `PATH`: the default of
/// execvp(3).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The shell that executes a file without a `#!` line, as in execvp(3).
const SHELL: &CStr = c"/bin/sh";

/// The variable with the pid of the process that gets the descriptors of `LISTEN_FDS`
/// (`sd_listen_fds(3)`).
const LISTEN_PID: &str = "LISTEN_PID";

/// A variable in the environment whose value the child writes.
#[derive(Debug)]
pub(super) struct OwnPid(Vec<u8>);

impl OwnPid {
    fn new() -> Self {
        let zero = "0".repeat(OWN_PID_DIGITS);
        Self(format!("{LISTEN_PID}={zero}\0").into_bytes())
    }

    fn variable(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }

    /// Returns the place where the child writes the value.
    pub(super) fn digits(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().wrapping_add(LISTEN_PID.len() + 1)
    }
}

/// Strings, and the null-terminated array of pointers to them that execve(2) requires.
#[derive(Debug)]
pub(super) struct Strings {
    pub(super) pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }
}

impl Command {
    /// Checks the strings of the command like [`spawn`](super::spawn), before anything is started.
    ///
    /// # Errors
    ///
    /// If the program is empty, or a string contains a NUL byte.
    pub(crate) fn check(&self) -> Result<()> {
        Program::new(self).map(drop)
    }
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) paths: Strings,
    /// The shell, a place for the path of a script, and the arguments.
    pub(super) shell: Vec<*const c_char>,
    pub(super) argv: Strings,
    pub(super) envp: Strings,
    /// The variable in `envp` that gets the PID of the child.
    pub(super) own_pid: Option<OwnPid>,
    pub(super) directory: Option<CString>,
}

impl Program {
    pub(super) fn new(command: &Command) -> Result<Self> {
        if command.program.is_empty() {
            return Err(Error::invalid("the program's name is empty: name a program to run"));
        }
        let argv = std::iter::once(command.arg0.as_ref().unwrap_or(&command.program))
            .chain(&command.args)
            .enumerate()
            // The message has its position, since its content may be a secret.
            .map(|(at, arg)| no_nul(arg.as_bytes(), || format!("argument {at}")))
            .collect::<Result<Vec<_>>>()?;
        let envp = command
            .environment
            .iter()
            .filter(|(key, _)| !(command.listens && key == LISTEN_PID))
            .map(|(key, value)| variable(key, value))
            .collect::<Result<Vec<_>>>()?;
        let directory = command
            .directory
            .as_ref()
            .map(|path| no_nul_in("working directory", path.as_os_str().as_bytes()));
        let mut envp = Strings::new(envp);
        let own_pid = command.listens.then(OwnPid::new);
        if let Some(own_pid) = &own_pid {
            envp.pointers.insert(0, own_pid.variable());
        }
        let argv = Strings::new(argv);
        let arguments = argv.pointers.iter().skip(1).copied();
        Ok(Self {
            paths: Strings::new(candidates(command)?),
            shell: [SHELL.as_ptr(), SHELL.as_ptr()].into_iter().chain(arguments).collect(),
            argv,
            envp,
            own_pid,
            directory: directory.transpose()?,
        })
    }
}

/// Converts a text, and refuses a NUL byte; `what` names the text in the error.
fn no_nul(bytes: impl Into<Vec<u8>>, what: impl FnOnce() -> String) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::invalid(format!("the {} contains a NUL byte", what())))
}

fn no_nul_in(what: &str, bytes: &[u8]) -> Result<CString> {
    no_nul(bytes, || format!("{what} {:?}", String::from_utf8_lossy(bytes)))
}

fn variable(key: &OsString, value: &OsString) -> Result<CString> {
    if key.is_empty() || key.as_bytes()[1..].contains(&b'=') {
        return Err(Error::invalid(format!(
            "the environment variable name `{}` is empty or contains `=`",
            key.display()
        )));
    }
    // With room for the NUL at the end.
    let mut entry = Vec::with_capacity(key.len() + value.len() + 2);
    entry.extend_from_slice(key.as_bytes());
    entry.push(b'=');
    entry.extend_from_slice(value.as_bytes());
    no_nul(entry, || format!("environment variable {:?}", key.display().to_string()))
}

/// Returns the paths that execvp(3) would try, with the `PATH` of the environment that the program
/// gets.
fn candidates(command: &Command) -> Result<Vec<CString>> {
    let program = command.program.as_bytes();
    if program.contains(&b'/') {
        return Ok(vec![no_nul_in("program", program)?]);
    }
    let path = command.environment.iter().rev().find(|(key, _)| key == "PATH");
    let folders = path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
    folders
        .split(|&byte| byte == b':')
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            no_nul_in("program", &[folder, b"/", program].concat())
        })
        .collect()
}
