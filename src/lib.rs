//! A SQLite-backed process ledger.
#![cfg(target_os = "linux")]
mod error;
mod identity;
#[allow(dead_code)]
mod record;
mod state;
#[allow(dead_code, unused_imports, unreachable_pub)]
mod store;
pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
