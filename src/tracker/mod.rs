//! SKELETON: signatures only, the real bodies arrive from main and replace this file.
#![allow(missing_docs, unused_variables, clippy::all, clippy::pedantic, clippy::unimplemented)]
use std::{ffi::OsString, os::fd::OwnedFd, path::{Path, PathBuf}, time::{Duration, SystemTime}};
use crate::{error::Result, record::*, identity::Pid};

#[derive(Clone)]
pub struct Tracker(());
#[derive(Clone, Debug)]
pub struct Builder(());
/// Read-only look at a ledger: no instance, changes nothing.
#[derive(Clone)]
pub struct Ledger(());
pub struct Job(());
/// One spawned program. Dropping it kills nothing: the tracker still has it.
pub struct Process { pub stdin: Option<std::process::ChildStdin>, pub stdout: Option<std::process::ChildStdout>, pub stderr: Option<std::process::ChildStderr> }
pub struct Stdio(());
pub struct Output { pub status: ExitStatus, pub stdout: Vec<u8>, pub stderr: Vec<u8> }

impl Tracker {
    pub fn builder(ledger: impl Into<PathBuf>) -> Builder { unimplemented!() }
    pub fn spawn(&self, job: Job) -> Result<Process> { unimplemented!() }
    pub fn register(&self, task_id: impl Into<String>, pid: impl Into<i64>) -> Result<()> { unimplemented!() }
    pub fn unregister(&self, task_id: &str) -> Result<bool> { unimplemented!() }
    /// Ends a task of this instance.
    pub fn terminate(&self, task_id: &str) -> Result<Report> { unimplemented!() }
    /// Ends tasks of any instance because a person asked; `asked_by` goes into the history. `NotFound` when a task is not live.
    pub fn kill(&self, task_ids: &[&str], asked_by: &str) -> Result<Report> { unimplemented!() }
    /// The same for every live task of the ledger.
    pub fn kill_all(&self, asked_by: &str) -> Result<Report> { unimplemented!() }
    /// Closes rows that cannot be judged; refuses (Busy) when the process is known to be alive and its owner too.
    pub fn forget(&self, task_id: &str, asked_by: &str) -> Result<u64> { unimplemented!() }
    pub fn health_pass(&self) -> Result<Report> { unimplemented!() }
    pub fn reap_orphans(&self) -> Result<Report> { unimplemented!() }
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Report> { unimplemented!() }
    pub fn running(&self) -> Result<Vec<ProcessRecord>> { unimplemented!() }
    pub fn leaks(&self, since: impl Into<Option<SystemTime>>) -> Result<Vec<LeakRecord>> { unimplemented!() }
    /// Deletes history older than `older_than` in small batches; calls `progress` with the total so far after each.
    pub fn prune(&self, older_than: Duration, progress: impl FnMut(u64)) -> Result<u64> { unimplemented!() }
    /// Reaps whenever an instance dies (learnt from the kernel), until `stop` is readable. Calls `on_report` after each pass that found something.
    pub fn watch(&self, stop: OwnedFd, on_report: impl FnMut(&Report)) -> Result<()> { unimplemented!() }
    /// What `open` found and did.
    pub fn startup_report(&self) -> &Report { unimplemented!() }
    pub fn ledger(&self) -> Ledger { unimplemented!() }
    pub fn shutdown(&self) -> Result<Report> { unimplemented!() }
}
impl Builder {
    pub fn ecosystem_manager(self) -> Self { self }
    /// Name of the embedding program (default: file name of the executable); survivors are adopted by the next instance of the same.
    pub fn program(self, name: impl Into<String>) -> Self { self }
    pub fn export(self, path: impl Into<PathBuf>) -> Self { self }
    pub fn orphan_name(self, name: impl Into<String>) -> Self { self }
    pub fn min_age(self, age: Duration) -> Self { self }
    pub fn health_interval(self, interval: Duration) -> Self { self }
    pub fn grace(self, grace: Duration) -> Self { self }
    pub fn monitor(self, on: bool) -> Self { self }
    /// `false`: open without the orphan pass; spawning is then refused until `reap_orphans` has run.
    pub fn reap_on_open(self, on: bool) -> Self { self }
    /// `true`: dropping or shutting down ends no processes of other instances; (kept for the command) 
    pub fn open(self) -> Result<Tracker> { unimplemented!() }
}
impl Job {
    pub fn new(task_id: impl Into<String>, program: impl Into<OsString>) -> Self { unimplemented!() }
    pub fn arg(self, arg: impl Into<OsString>) -> Self { self }
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(self, args: I) -> Self { self }
    pub fn env(self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self { self }
    pub fn env_remove(self, key: impl Into<OsString>) -> Self { self }
    pub fn env_clear(self) -> Self { self }
    pub fn current_dir(self, dir: impl Into<PathBuf>) -> Self { self }
    pub fn stdin(self, s: Stdio) -> Self { self }
    pub fn stdout(self, s: Stdio) -> Self { self }
    pub fn stderr(self, s: Stdio) -> Self { self }
    pub fn grace(self, grace: Duration) -> Self { self }
    pub fn max_runtime(self, limit: Duration) -> Self { self }
    pub fn max_rss(self, bytes: u64) -> Self { self }
    pub fn survive(self, on: bool) -> Self { self }
    pub fn allow_survivor(self, on: bool) -> Self { self }
    /// Keep what the program leaves behind when it ends.
    pub fn keep_strays(self, on: bool) -> Self { self }
    /// Keep the caller's session and become the terminal's foreground process group (for a person's shell), when stdin is a terminal.
    pub fn foreground(self, on: bool) -> Self { self }
}
impl Process {
    pub fn pid(&self) -> Pid { unimplemented!() }
    pub fn task_id(&self) -> &TaskId { unimplemented!() }
    pub fn wait(&mut self) -> Result<ExitStatus> { unimplemented!() }
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> { unimplemented!() }
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> { unimplemented!() }
    pub fn wait_with_output(self) -> Result<Output> { unimplemented!() }
    /// Waits as a shell does for a foreground job: when the job stops (Ctrl-Z), takes the terminal back, stops this process too, and continues the job when continued.
    pub fn wait_in_foreground(&mut self) -> Result<ExitStatus> { unimplemented!() }
    pub fn terminate(&mut self) -> Result<Report> { unimplemented!() }
    /// Sends a signal (a number of signal(7)) to the root through its pidfd; to its whole foreground group when it is a foreground job? No: to the root alone.
    pub fn signal(&self, signal: i32) -> Result<()> { unimplemented!() }
}
impl Stdio { pub fn inherit() -> Self { Self(()) } pub fn null() -> Self { Self(()) } pub fn piped() -> Self { Self(()) } pub fn fd(fd: OwnedFd) -> Self { Self(()) } }

/// One line of `doctor`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding { pub check: String, pub level: Level, pub detail: String, /** what to do, empty when fine */ pub advice: String }
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level { Ok, Warning, Problem }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakGrouping { Day, Task, Rule }
#[derive(Clone, Debug, serde::Serialize)]
pub struct LeakGroup { pub key: String, pub leaks: u64, pub orphans: u64, pub strays: u64, pub unregistered: u64, pub survived: u64, pub process_hours: f64, pub rss_bytes: u64, pub last_found_at: Millis }

impl Ledger {
    pub fn open(path: impl AsRef<Path>) -> Result<Self> { unimplemented!() }
    pub fn path(&self) -> &Path { unimplemented!() }
    pub fn running(&self) -> Result<Vec<ProcessRecord>> { unimplemented!() }
    pub fn history(&self, task_id: Option<&str>, since: Option<SystemTime>, limit: u32) -> Result<Vec<ProcessRecord>> { unimplemented!() }
    pub fn leaks(&self, since: Option<SystemTime>) -> Result<Vec<LeakRecord>> { unimplemented!() }
    pub fn leak_groups(&self, since: Option<SystemTime>, by: LeakGrouping) -> Result<Vec<LeakGroup>> { unimplemented!() }
    pub fn last_passes(&self) -> Result<Vec<PassRecord>> { unimplemented!() }
    /// What a reap would do, rule and evidence, without doing it.
    pub fn plan_reap(&self, orphan_names: &[String], min_age: Duration) -> Result<Report> { unimplemented!() }
    /// The JSON export's bytes.
    pub fn export_json(&self) -> Result<Vec<u8>> { unimplemented!() }
    /// Replaces `path` atomically with the JSON export.
    pub fn export_to(&self, path: impl AsRef<Path>) -> Result<()> { unimplemented!() }
}
/// Checks ledger, machine and rows; never fails: what cannot be checked is a finding.
pub fn diagnose(ledger: &Path, export: Option<&Path>) -> Vec<Finding> { unimplemented!() }
