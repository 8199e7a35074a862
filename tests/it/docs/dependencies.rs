//! The crates that a program gets with the library.

use std::{collections::BTreeSet, process::Command};

use crate::support::root;

/// The number of crates without the optional features, including the library. A further one has to
/// be worth it.
const CRATES: usize = 58;

fn crates(features: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "tree",
        "--offline",
        "--locked",
        "--package",
        "procledger",
        "--edges",
        "normal,build",
    ]);
    cargo.args([
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--no-default-features",
        "--features",
        features,
    ]);
    let listed = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).expect("text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The feature `fleet` is off by default in the library.
#[test]
fn the_fleet_feature_adds_no_crate_by_default() {
    // The ordinary user of CI cannot read the crates.
    if !root() {
        return;
    }
    let without = crates("bundled");
    for name in
        ["postgres", "rustls", "tokio", "ring", "tokio-postgres-rustls", "rustls-native-certs"]
    {
        assert!(!without.contains(name), "{name}");
        assert!(crates("fleet").contains(name), "{name}");
    }
    assert_eq!(without.len(), CRATES, "{without:#?}");
}
