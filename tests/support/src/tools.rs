//! What a machine or a user may lack.

use std::{env, io::Write, path::PathBuf, thread};

/// A tool that a test needs and a machine with only Rust and a C compiler may lack. Where it is
/// missing the test says so and is skipped, but not under CI, which installs all of them.
pub fn tool(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skipped(&format!("no {name}"));
    }
    found
}

pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Prints why a test proves nothing here; under CI it fails instead.
pub fn skipped(why: &str) {
    assert!(env::var_os("CI").is_none(), "CI must be able to run every test: {why}");
    say_skipped(why);
}

/// Not `eprintln!`: libtest shows that only of tests that fail.
fn say_skipped(why: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {why}: {name}");
}

/// Whether this user may do what only root can do. If not, the test prints so; such tests are
/// skipped where CI runs as an ordinary user, and run where CI runs as root.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say_skipped("needs root");
    }
    root
}
