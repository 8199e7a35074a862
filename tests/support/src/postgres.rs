//! The programs of a PostgreSQL server, and the user that it runs as.
#![expect(clippy::disallowed_methods, reason = "a server of the tests is not tracked")]

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::find;

/// PostgreSQL refuses to be run by root, and by a user without a name: it runs as this one, which
/// every system has.
pub const NOBODY: &str = "65534";

/// Returns the folder with the programs of a PostgreSQL server, from `PATH` or as Debian installs
/// them.
pub fn postgres_programs() -> Option<PathBuf> {
    let found = find("initdb").filter(|file| file.with_file_name("postgres").is_file());
    let of_debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let bins = versions.map(|version| version.path().join("bin"));
        bins.filter(|bin| bin.join("initdb").is_file()).max()
    };
    found.and_then(|file| Some(file.parent()?.to_owned())).or_else(of_debian)
}

/// Returns a command that runs a program as [`NOBODY`]: as that user if this one is root, otherwise
/// in a user namespace.
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command;
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    } else {
        command = Command::new("unshare");
        command.args(["--user", "--map-user", NOBODY, "--map-group", NOBODY, "--"]);
    }
    command.arg(program).current_dir("/").stdin(Stdio::null()).stderr(Stdio::piped());
    command
}
