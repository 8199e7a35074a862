//! A process ledger on SQLite: records every process before it runs, and ends what a crash leaves
//! behind.
//!
//! Programs that run other programs, such as agent runners, CI and job APIs, leak processes: a
//! restart loses track of what was running, a wrapper dies while its server runs on, or a clean-up
//! by name kills an unrelated process. This crate records every process in one SQLite file, and
//! follows three rules:
//!
//! - a program executes its first instruction only after its row is committed;
//! - a signal is sent only to a process that was verified to be the recorded one, never to a bare
//!   PID;
//! - a process that cannot be identified with certainty is left running and reported.
//!
//! # Embedding
//!
//! ```
//! use procledger::{Job, Stdio, Tracker};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ledger.db");
//! // Ends what an earlier run left behind, before it returns.
//! let tracker = Tracker::builder(&path).program("my-api").open()?;
//!
//! let job = Job::new("task-42", "sh").args(["-c", "echo done"]).stdout(Stdio::piped());
//! let output = tracker.spawn(job)?.wait_with_output()?;
//! assert!(output.exit.success());
//! assert_eq!(output.stdout, b"done\n");
//!
//! // Ends the tasks that are still running, with everything that they started.
//! tracker.shutdown()?;
//! # Ok(()) }
//! ```
//!
//! # A task from start to end
//!
//! [`Tracker::spawn`] returns when the row is committed and the program runs. A [`Job`] sets its
//! limits:
//!
//! ```
//! use std::time::Duration;
//! use procledger::{EndReason, ExitStatus, Job, Query, Stdio, Tracker};
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
//! let running = tracker.ledger().roots()?;
//! assert_eq!(running[0].pid(), process.pid());
//!
//! // Ends the whole tree: pins each process by a pidfd, verifies it, SIGTERM, grace, SIGKILL.
//! let report = tracker.terminate("task-43")?;
//! assert_eq!(report.survived(), 0);
//! assert_eq!(process.wait()?, ExitStatus::Signaled(15));
//!
//! // The history keeps ended processes, with the reason.
//! let past = tracker.ledger().history(Query::new().task_id("task-43").limit(10))?;
//! assert!(past.iter().all(|process| process.life.end().unwrap().reason == EndReason::Terminated));
//! # Ok(()) }
//! ```
//!
//! Dropping a [`Process`] ends nothing: the tracker still owns the process, detects its end within
//! milliseconds, and ends what it leaves behind. With [`Job::terminate_on_drop`] it ends the
//! program's tree. Dropping the last [`Tracker`] ends everything that it owns;
//! `std::process::exit`, and a SIGTERM or Ctrl-C that the host does not handle, drop nothing (see
//! [`Tracker`]).
//!
//! # Processes that were started by other means
//!
//! [`Tracker::register`] tracks a process from that call on. Since the process was not started by
//! the tracker, only its descendants count as its tree:
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
//! # Reading a ledger
//!
//! [`Ledger`] opens a ledger for reading and changes nothing; any number of hosts may have it open.
//! The file is plain SQLite with views for people; `docs/ledger.md` describes its tables, has
//! recipes, and says how to copy it.
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
//! // Each pass is recorded, even if it found nothing: no leaks without passes means that nothing was checked.
//! assert!(!ledger.last_passes()?.is_empty());
//! # Ok(()) }
//! ```
//!
//! # When something fails
//!
//! There is one [`Error`] type, with predicates for decisions and a message for the log. If a row
//! cannot be written, the program does not run.
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
//! | opening, and its clean-up | [`Tracker::builder`], [`Builder::open`], [`Tracker::startup_report`] |
//! | starting programs | [`Job`], [`Tracker::spawn`], [`Tracker::output`], [`Process`] |
//! | processes that were started by other means | [`Tracker::register`], [`Tracker::unregister`] |
//! | ending | [`Tracker::terminate`], [`Tracker::kill`], [`Tracker::shutdown`] |
//! | checking | [`Tracker::health_pass`], [`Tracker::reap_orphans`], [`Tracker::watch`], [`Tracker::watch_cycles`], [`Tracker::watch_named`] |
//! | reading without changing anything | [`Ledger`], [`diagnose`], [`scan_orphans`] |
//! | following what is recorded | [`Tracker::subscribe`], [`Ledger::subscribe`], [`Ledger::wait`] |
//! | metrics | [`Tracker::metrics`], [`Ledger::metrics`], [`Metrics::to_prometheus`] |
//!
//! # Beside std, tokio and process-wrap
//!
//! A [`Job`] is a `Command` with a task, and a [`Process`] is a `Child`. `AsyncTracker`,
//! `AsyncProcess`, `AsyncCommunicator` and `ProcessSet` (feature `tokio`) have the same methods as
//! futures. What differs:
//!
//! | here | std | tokio | process-wrap | difference |
//! | --- | --- | --- | --- | --- |
//! | [`Job::new`], [`arg`](Job::arg), [`envs`](Job::envs), [`current_dir`](Job::current_dir), [`get_args`](Job::get_args) … | `Command` | `Command` | `CommandWrap` around either | the methods take and return the job, which is [`Clone`] and is moved into the spawn |
//! | [`Tracker::spawn`] | `Command::spawn` | the same | the same | the program runs only after its row is committed; a task runs once at a time |
//! | a session of its own, default signals, no inherited descriptor | by `pre_exec` | by `pre_exec` | `ProcessSession`, `ResetSigmask` | by default; [`process_group`](Job::process_group), [`signals`](Job::signals) and [`fd`](Job::fd) change it |
//! | [`uid`](Job::uid), [`gid`](Job::gid), [`groups`](Job::groups) | `CommandExt` | `Command` | those of the command | another uid needs a gid; no capability and no supplementary group stays; for a ledger of root's only |
//! | [`umask`](Job::umask), [`nice`](Job::nice), [`rlimit`](Job::rlimit) | by `pre_exec` | by `pre_exec` | by the command's | checked before the spawn |
//! | none | `pre_exec`, `exec` | `pre_exec` | `CommandWrapper` hooks | see [`Job`] |
//! | [`Stdio::merge`], [`Job::stdin_bytes`] | none | none | none | |
//! | [`Tracker::output`], [`Tracker::status`] | `Command::output`, `status` | the same | `wait_with_output` | the futures end their program when they are dropped |
//! | [`Process::communicate`] | none | none | none | input and output at once, with limits of time and bytes |
//! | [`Process::wait`], [`try_wait`](Process::try_wait), [`wait_timeout`](Process::wait_timeout) | `wait`, `try_wait` | `wait`, `try_wait` | the same; with `ProcessGroup`, up to version 9.1, until the group's other children are reaped | an [`Exit`] with the reason, once the end is in the ledger; does not wait for what the program leaves |
//! | [`Tracker::get`], [`Tracker::wait`] | none | none | none | by task, from any number of threads |
//! | [`Process::kill`] | `kill` | `start_kill`; `kill` also waits | as tokio, with std as well; the whole group with `ProcessGroup` | the program alone, as in std; what it leaves is ended as strays |
//! | [`Process::signal`], [`Process::signal_group`], [`Process::signal_tree`] | none | none | `signal`: to the PID, or to the group with `ProcessGroup` | to the program by its pidfd, or to its group; to the whole tree, also to what has left the group |
//! | [`Process::suspend`], [`resume`](Process::resume) | none | none | by `signal`, to the group | the whole tree, until no process of it runs; whatever ends it makes it run first |
//! | [`Process::terminate`], [`terminate_with`](Process::terminate_with) | none | none | none | SIGTERM or the [stop signals](Job::stop_signals), a grace, SIGKILL, to the whole tree, verified |
//! | [`terminate_on_drop`](Job::terminate_on_drop) | none | `kill_on_drop` | `KillOnDrop`, which is tokio's: the program alone | the whole tree, with its grace; off by default |
//! | `ProcessSet` | none | a `JoinSet` of waits | none | ends what it holds when it is dropped, unless `detach_all` was called |
//! | [`Tracker::subscribe`] | none | none | none | ends and leaks, in the order of the ledger |
//! | [`ExitStatus`] | `ExitStatus` | std's | std's | has `Unobserved`; converts from and to std's |
//! | a program of a host that has ended | runs on | runs on | runs on | is ended by its keeper, by `procledger watch` or by the next host |
//!
//! # After a crash
//!
//! A row is written before its program may run, and closed after the program has ended. If the host
//! dies in between, the next instance that opens the ledger finds the row, verifies that the
//! process is still the same one ([`Identity`]), ends its whole tree, and records a leak with the
//! rule and the evidence ([`LeakRecord`]). Several instances may share a ledger: each holds a lock
//! that the kernel releases when the instance dies, and an instance never touches the processes of
//! a live one.
//!
//! # Platform
//!
//! Linux 5.9 or newer (`close_range(2)`, pidfds) on `x86_64` and `aarch64`. Linux 6.9 makes
//! identities exact even if a PID is reused within one clock tick, and 6.15 reports the exit code
//! of processes that are not our children. Building needs Rust 1.95 and a C compiler for the
//! bundled SQLite.
//!
//! # Features
//!
//! - `cli` (default): the `procledger` command and its dependencies;
//! - `bundled` (default): compiles SQLite in. Without it, the system's SQLite is linked, which must
//!   be 3.51.3 or newer: older versions may lose a WAL that is reset while it is read;
//! - `tokio`: `Tracker::into_async` and `Process::into_async`, whose futures wait, read output and
//!   end trees, without a thread for each wait;
//! - `fleet`: the module `fleet`, for the ledgers of many machines in one PostgreSQL database;
//! - `metrics`: also reports each figure of [`Tracker::metrics`] to the recorder of the `metrics`
//!   facade.

#![cfg(target_os = "linux")]

mod error;
mod export;
#[cfg(feature = "fleet")]
pub mod fleet;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
pub mod keeper;
mod metrics;
mod model;
#[doc(hidden)]
pub mod paths;
mod policy;
mod redact;
mod store;
mod sys;
#[cfg(test)]
mod tests;
mod tracker;

pub use error::{Error, Result};
pub use identity::{Identity, Pid};
pub use model::{
    Attributes, Cgroup, Containment, ContainmentMode, End, EndCount, EndPlan, EndReason, Ending,
    EvidenceKey, ExitStatus, FigureSource, Histogram, InstanceCount, InstanceId, Justification,
    LeakCount, LeakKind, LeakRecord, LedgerEvent, LedgerMetrics, LedgerPasses, Life, Limits,
    Metrics, Origin, OrphanMember, OrphanScan, OrphanTree, OrphansLeftOut, Outcome, PassKind,
    PassMetrics, PassRecord, PassSummary, ProcessId, ProcessRecord, ProcessSpec, Query, Report,
    Resource, Rlimit, RuleKey, SignalState, State, Suspect, TASK_ID_MAX, TaskId, TreeMember,
    TreeRecord,
};
pub use store::{LeakGroup, LeakGrouping, LeakReport};
#[cfg(feature = "tokio")]
pub use tracker::{AsyncCommunicator, AsyncProcess, AsyncSubscription, AsyncTracker, ProcessSet};
pub use tracker::{
    Builder, Caller, Communicator, DEFAULT_KEEP_HISTORY, DEFAULT_MIN_AGE, ECOSYSTEM_MANAGER_EXPORT,
    ECOSYSTEM_MANAGER_NAME, Exit, Finding, Job, Ledger, Level, Output, Process, PruneProgress,
    Pruned, Signaller, Stdio, Subscription, Tracker, WatchCycle, diagnose, diagnose_trusting,
    plan_name_match, scan_orphans,
};

/// The README's Rust, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
