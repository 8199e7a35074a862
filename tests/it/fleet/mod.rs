//! The fleet, on a real PostgreSQL.

use std::process::{Command, Output, Stdio};

mod comparison;
mod dialect;
mod init;
mod machines;
mod maintenance;
mod pooler;
mod proxy;
mod reports;
mod rights;
mod scene;
mod server;
mod settings;
mod ship;
mod ship_copies;
mod ship_interrupted;
mod ship_lines;
mod ship_service;
mod tls;
mod versions;

/// The subcommand `fleet`, without an address in its environment.
fn fleet(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
    command.arg("fleet").args(words).stdin(Stdio::null()).env_remove("PROCLEDGER_FLEET");
    command.env_remove("PGPASSWORD").env_remove("PGPASSFILE");
    // Of the server that `PROCLEDGER_FLEET_URL` names.
    if let (Some(&"init"), Ok(engine)) = (words.first(), std::env::var("PROCLEDGER_FLEET_ENGINE")) {
        command.args(["--engine", &engine]);
    }
    command
}

/// What it has printed to stdout, where it has to succeed.
#[track_caller]
fn printed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    let error = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {error}");
    String::from_utf8(stdout).expect("UTF-8")
}

/// What it has printed to stderr, where it has to fail with this exit code.
#[track_caller]
fn refused(code: i32, mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    let error = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(code), "{command:?}: {error}");
    assert!(stdout.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&stdout));
    error
}
