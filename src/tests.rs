//! What the unit tests of several modules share.

use std::io::Write;

/// Whether this user may do what only root can play. Where not, the test says so; it is counted where CI runs as an
/// ordinary user, and played where CI runs as root.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say("needs root");
    }
    root
}

/// Says why a test proves nothing here; under CI it fails instead.
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run every test: {why}");
    say(why);
}

/// Not `eprintln!`: libtest shows that only of tests that fail.
fn say(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {why}: {name}");
}
