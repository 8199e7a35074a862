//! The keeper: a small process between a host and a program, which ends the program's whole tree
//! when the host dies.
//!
//! A tracker uses the program `procledger-keeper`, whose `main` is [`main`]; it looks for it beside
//! its own executable and on `PATH`, or uses the one that
//! [`Builder::keeper`](crate::Builder::keeper) names. A host that wants to be installed as a single
//! file names its own executable there, and calls [`is_asked`] before anything else:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     if procledger::keeper::is_asked() {
//!         return procledger::keeper::main();
//!     }
//!     // The host itself, with `Tracker::builder(..).keeper(std::env::current_exe()?)`.
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! `docs/keeper.md` describes what a keeper does and what it costs.

pub use crate::tracker::keeper_main as main;

/// Returns whether this process was executed to be a keeper: its `argv[0]` is `procledger-keeper`.
pub fn is_asked() -> bool {
    crate::tracker::keeper_is_asked()
}
