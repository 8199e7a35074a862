//! A SQLite-backed process ledger: every process recorded before it runs, none leaked, no innocent killed.
//!
//! Programs that run other programs on somebody's behalf, such as agent runners, CI and job APIs, leak processes: a restart
//! forgets what was running, a wrapper dies and its server lives on, a clean-up by name hits a stranger. This crate keeps
//! a ledger of every process in one SQLite file, and holds to three rules:
//!
//! - a program's first instruction runs after its row is committed, never before;
//! - a signal goes to a process that was verified to be the recorded one, never to a number;
//! - what cannot be told is left alone, and said.
//!
//! # Embedding
//!
//! ```
//! use procledger::{Job, Stdio, Tracker};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ledger.db");
//! // What a former run left behind is gone when this returns.
//! let tracker = Tracker::builder(&path).program("my-api").open()?;
//!
//! let job = Job::new("task-42", "sh").args(["-c", "echo done"]).stdout(Stdio::piped());
//! let output = tracker.spawn(job)?.wait_with_output()?;
//! assert!(output.status.success());
//! assert_eq!(output.stdout, b"done\n");
//!
//! // Ends what still runs, with all that it started.
//! tracker.shutdown()?;
//! # Ok(()) }
//! ```
//!
//! # The parts
//!
//! | for | see |
//! | --- | --- |
//! | opening, and what it cleans up | [`Tracker::builder`], [`Builder::open`], [`Tracker::startup_report`] |
//! | starting programs | [`Job`], [`Tracker::spawn`], [`Process`] |
//! | processes that were started by other means | [`Tracker::register`], [`Tracker::unregister`] |
//! | ending | [`Tracker::terminate`], [`Tracker::kill`], [`Tracker::shutdown`] |
//! | checking | [`Tracker::health_pass`], [`Tracker::reap_orphans`], [`Tracker::watch`] |
//! | looking without touching | [`Ledger`], [`diagnose`] |
//!
//! # What a crash leaves
//!
//! A row is written before the program may run, and closed after it has ended; whatever happens in between, the next
//! instance that opens the ledger finds the row, verifies that the process is still the same one ([`Identity`]), ends its
//! whole tree and records a leak with the rule and the evidence ([`LeakRecord`]). Several instances may share a ledger:
//! each holds a lock that the kernel drops when it dies, and no live instance's processes are touched by another.
//!
//! # Platform
//!
//! Linux 5.9 or newer (`close_range(2)`, pidfds) on `x86_64` and `aarch64`; 6.9 makes identities exact when a pid is reused
//! within one clock tick, 6.15 tells the exit code of processes that are not our children. Building needs Rust 1.95 and a
//! C compiler for the bundled SQLite.
//!
//! # Features
//!
//! - `cli` (default): the `procledger` command and what only it needs;
//! - `bundled` (default): compiles SQLite in. Without it the system's is linked, which must be 3.51.3 or newer: older ones
//!   may lose a WAL that is reset while it is read.

#![cfg(target_os = "linux")]

mod error;
mod export;
mod identity;
pub mod keeper;
mod os;
mod plan;
mod record;
mod state;
mod store;
mod tracker;

pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
pub use record::{
    Cgroup, Containment, ContainmentMode, EndReason, Ending, ExitStatus, InstanceId,
    InstanceRecord, LeakKind, LeakRecord, Limits, Millis, Origin, Outcome, PassKind, PassRecord,
    ProcessId, ProcessRecord, Report, StopHow, Suspect, TASK_ID_MAX, TaskId,
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
