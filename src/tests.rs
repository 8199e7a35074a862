//! Helpers that the unit tests of several modules share.

use std::io::Write;

/// Reports whether this user may run tests that need root. If not, the test reports that; it counts
/// as skipped where CI runs as an ordinary user, and runs where CI runs as root.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say("needs root");
    }
    root
}

/// Reports why a test proves nothing here; under CI it fails instead.
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run every test: {why}");
    say(why);
}

/// Writes a line to stderr, not by `eprintln!`: libtest shows that only for failed tests.
fn say(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {why}: {name}");
}
