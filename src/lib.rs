//! A SQLite-backed process ledger.
#![cfg(target_os = "linux")]
#![allow(dead_code)]
mod error;
mod identity;
mod record;
mod state;
mod tracker;
pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
pub use record::{
    Containment, EndReason, Ending, ExitStatus, InstanceId, InstanceRecord, LeakKind, LeakRecord, Limits, Millis, Origin,
    Outcome, PassKind, PassRecord, ProcessId, ProcessRecord, Report, StopHow, Suspect, TaskId,
};
pub use state::State;
pub use tracker::{
    Builder, Finding, Job, LeakGroup, LeakGrouping, Ledger, Level, Output, Process, Stdio, Tracker, diagnose,
};
