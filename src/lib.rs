//! A SQLite-backed process ledger: every process recorded before it runs, none leaked, no innocent killed.
//!
#![cfg(target_os = "linux")]

mod error;
mod export;
mod identity;
mod os;
mod plan;
mod record;
mod state;
mod store;
mod tracker;

pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
pub use record::{
    Containment, EndReason, Ending, ExitStatus, InstanceId, InstanceRecord, LeakKind, LeakRecord,
    Limits, Millis, Origin, Outcome, PassKind, PassRecord, ProcessId, ProcessRecord, Report,
    StopHow, Suspect, TASK_ID_MAX, TaskId,
};
pub use state::{Event, State, next};
pub use store::{LeakGroup, LeakGrouping};
pub use tracker::{
    Builder, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT, ECOSYSTEM_MANAGER_NAME, Finding, Job,
    Ledger, Level, Output, Process, Signaller, Stdio, Tracker, diagnose,
};

/// The README's Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
