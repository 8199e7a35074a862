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
//! # A task from start to end
//!
//! [`Tracker::spawn`] returns when the row is committed and the program runs. A [`Job`] says what may go wrong with it:
//!
//! ```
//! use std::time::Duration;
//! use procledger::{EndReason, ExitStatus, Job, Stdio, Tracker};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?;
//! let job = Job::new("task-43", "sh")
//!     .args(["-c", "sleep 300 & sleep 300"])
//!     .stdout(Stdio::null())
//!     .grace(Duration::from_millis(500)) // between SIGTERM and SIGKILL
//!     .max_runtime(Duration::from_secs(3600))
//!     .max_rss(4 << 30); // of the whole tree
//! let mut process = tracker.spawn(job)?;
//!
//! let running = tracker.running()?;
//! assert_eq!(running[0].identity.pid, process.pid());
//!
//! // The whole tree: pinned by pidfds, verified, SIGTERM, the grace, SIGKILL; and each answered for.
//! let report = tracker.terminate("task-43")?;
//! assert_eq!(report.survived(), 0);
//! assert_eq!(process.wait()?, ExitStatus::Signaled(15));
//!
//! // What has ended is kept, with its reason.
//! let past = tracker.ledger().history(Some("task-43"), None, 10)?;
//! assert!(past.iter().all(|process| process.end_reason == Some(EndReason::Terminated)));
//! # Ok(()) }
//! ```
//!
//! Dropping a [`Process`] ends nothing: the tracker still has it, learns of its end within milliseconds, and ends what it
//! leaves behind. Dropping the last [`Tracker`] ends all that is still its own.
//!
//! # What somebody else started
//!
//! A process that was started by other means is tracked from [`Tracker::register`] on. It was never ours to gate, so only
//! what is found below it counts as its tree:
//!
//! ```
//! use procledger::Tracker;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?;
//! let mut child = std::process::Command::new("sleep").arg("300").spawn()?;
//! tracker.register("task-44", child.id())?;
//! assert_eq!(tracker.executing_count(), 1);
//!
//! tracker.terminate("task-44")?;
//! child.wait()?;
//! # Ok(()) }
//! ```
//!
//! # Looking at a ledger
//!
//! [`Ledger`] opens for reading and changes nothing, beside any number of hosts. The file is plain SQLite with views for
//! people; its tables, recipes and how to copy it are in `docs/ledger.md`.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use procledger::{LeakGrouping, Ledger};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ledger.db");
//! # procledger::Tracker::builder(&path).open()?.shutdown()?;
//! let ledger = Ledger::open(&path)?;
//! let a_month_ago = SystemTime::now() - Duration::from_hours(30 * 24);
//! for group in ledger.leak_groups(Some(a_month_ago), LeakGrouping::Task)? {
//!     println!("{}: {} leaks, {:.1} process hours", group.key, group.leaks, group.process_hours);
//! }
//! // Silence, or nobody there to speak? Each pass is recorded, also when it found nothing.
//! assert!(!ledger.last_passes()?.is_empty());
//! # Ok(()) }
//! ```
//!
//! # When something fails
//!
//! One [`Error`] with predicates: a host decides by what it is, and logs what it says. If a row cannot be written, the
//! program does not run.
//!
//! ```
//! use procledger::{Job, Tracker};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let tracker = Tracker::builder(folder.path().join("ledger.db")).open()?;
//! tracker.spawn(Job::new("task-45", "sleep").arg("300"))?;
//! let twice = tracker.spawn(Job::new("task-45", "sleep").arg("300")).unwrap_err();
//! assert!(twice.is_already_running());
//! let missing = tracker.spawn(Job::new("task-46", "no-such-program")).unwrap_err();
//! assert!(missing.is_not_started());
//! assert_eq!(missing.raw_os_error(), Some(2)); // ENOENT
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
//! | checking | [`Tracker::health_pass`], [`Tracker::reap_orphans`], [`Tracker::watch`], [`Tracker::watch_turns`] |
//! | looking without touching | [`Ledger`], [`diagnose`] |
//! | figures | [`Tracker::metrics`], [`Ledger::metrics`], [`Metrics::to_prometheus`] |
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
//!   may lose a WAL that is reset while it is read;
//! - `tokio`: `Tracker::into_async` and `Process::into_async`: waiting, reading, ending as futures, no thread a wait;
//! - `metrics`: hands each figure of [`Tracker::metrics`] to the recorder of that facade as well.

#![cfg(target_os = "linux")]

mod error;
mod export;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
pub mod keeper;
mod meter;
mod os;
mod plan;
mod record;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod tracker;

pub use error::{Error, Result};
pub use identity::{Identity, Pid, Place, Reach, Sameness};
pub use record::{
    Cgroup, Containment, ContainmentMode, EndCount, EndReason, Ending, ExitStatus, FigureSource,
    Histogram, InstanceCount, InstanceId, InstanceRecord, LeakCount, LeakKind, LeakRecord,
    LedgerMetrics, LedgerPasses, Limits, Metrics, Millis, Origin, Outcome, PassKind, PassMetrics,
    PassRecord, PassSummary, ProcessId, ProcessRecord, Report, StopHow, Suspect, TASK_ID_MAX,
    TaskId, TreeMember, TreeRecord,
};
pub use state::{Event, State, next};
pub use store::{LeakGroup, LeakGrouping, LeakReport};
#[cfg(feature = "tokio")]
pub use tracker::{AsyncProcess, AsyncTracker};
pub use tracker::{
    Builder, DEFAULT_KEEP_HISTORY, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT,
    ECOSYSTEM_MANAGER_NAME, Finding, Job, Ledger, Level, Output, Process, PruneProgress, Pruned,
    Signaller, Stdio, Tracker, Turn, diagnose,
};

/// The README's Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
