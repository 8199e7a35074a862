//! How much of a proof that repeats itself is run.

use std::env;

/// Returns how much to run: a sample in a plain `cargo test`, all of it under CI. Every case has to
/// be in the sample. With `PROCLEDGER_SAMPLE=1` CI samples too, where it has run all of it before.
pub fn sampled<T>(sample: T, all: T) -> T {
    let whole = env::var_os("CI").is_some() && env::var_os("PROCLEDGER_SAMPLE").is_none();
    if whole || long() { all } else { sample }
}

/// Whether to run the long form of a proof: set by `PROCLEDGER_LONG=1`.
pub fn long() -> bool {
    env::var_os("PROCLEDGER_LONG").is_some()
}
