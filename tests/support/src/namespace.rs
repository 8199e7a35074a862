//! PID namespaces of a test's own: no process outside can be affected, and all of one dies with its
//! first process.

#![expect(clippy::disallowed_methods, reason = "a tool, which is started without a tracker")]

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use crate::tools::{skipped, tool};

/// Runs `program` in a PID namespace of its own, with its own `/proc`, which dies with `unshare`.
pub fn namespaced(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(program);
    command
}

/// Whether [`namespaced`] works on this machine and for this user.
pub fn namespaces() -> bool {
    if tool("unshare").is_none() {
        return false;
    }
    let tried = namespaced("true").stdin(Stdio::null()).output().expect("unshare");
    if !tried.status.success() {
        skipped("no PID namespace can be made here");
    }
    tried.status.success()
}
