//! A SQLite-backed process ledger.
#![cfg(target_os = "linux")]
mod error;
#[allow(dead_code, unused_imports)]
mod export;
mod identity;
#[allow(dead_code)]
mod os;
#[allow(dead_code)]
mod plan;
#[allow(dead_code)]
mod record;
mod state;
#[allow(dead_code)]
mod store;
pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
