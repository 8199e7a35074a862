//! Plain records and reports: what the ledger holds, and what a pass answers.
//!
//! All times are [`Millis`], unix milliseconds as the ledger stores them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    identity::{Identity, Pid, Place},
    state::State,
};

/// Longest task id, in bytes: long enough for any path or URL, short enough for an index.
pub const TASK_ID_MAX: usize = 1024;

/// Unix time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// The wall clock now.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// RFC 3339 in UTC with milliseconds, as `2025-01-10T12:34:56.000Z`.
    pub fn to_rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_millis(self.0).map_or_else(
            || self.0.to_string(),
            |time| time.to_rfc3339_opts(SecondsFormat::Millis, true),
        )
    }

    /// The time since `earlier`; zero where the clock was set back between them.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time less `span`.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }
}

impl From<SystemTime> for Millis {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

/// A span in whole milliseconds, as the ledger stores it.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The caller's unit of work: 1 to [`TASK_ID_MAX`] bytes without NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// Checks a task id.
    ///
    /// # Errors
    ///
    /// Invalid input when it is empty, longer than [`TASK_ID_MAX`] bytes or holds a NUL byte.
    pub fn new(id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        if id.is_empty() {
            return Err(Error::invalid("the task id is empty: name the unit of work"));
        }
        if id.len() > TASK_ID_MAX {
            return Err(Error::invalid(format!(
                "the task id has {} bytes: at most {TASK_ID_MAX} are allowed",
                id.len()
            )));
        }
        if id.contains('\0') {
            return Err(Error::invalid(format!("the task id {id:?} holds a NUL byte")));
        }
        Ok(Self(id))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An enum whose variants are words in the ledger and in JSON.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every variant.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word in the ledger.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The variant that a word in the ledger names.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// How a process came to be in the ledger.
    Origin {
        /// Started through the gate.
        Spawned = "spawned",
        /// Started by the caller, then registered.
        Registered = "registered",
        /// Named in a JSON file that a former processor left.
        Imported = "imported",
        /// Found below a root.
        Descendant = "descendant",
        /// Matched a configured name; nobody had registered it.
        Swept = "swept",
    }
}

words! {
    /// What keeps a tree together.
    Containment {
        /// Nothing of ours: parent pids and recorded descendants only.
        None = "none",
        /// A session (or a foreground process group) that the gate made.
        Session = "session",
        /// A keeper process that is the tree's subreaper.
        Keeper = "keeper",
        /// A cgroup v2 leaf.
        Cgroup = "cgroup",
    }
}

words! {
    /// Why a process is no longer running.
    EndReason {
        /// By itself: exit code or signal say how.
        Exited = "exited",
        /// It never ran: the gate was refused or exec failed.
        Failed = "failed",
        /// Its owner asked.
        Terminated = "terminated",
        /// A person asked.
        Killed = "killed",
        /// Its owner shut down.
        Shutdown = "shutdown",
        /// Its owner had died.
        Orphan = "orphan",
        /// Its root had ended.
        Stray = "stray",
        /// It matched a configured name and nobody had registered it.
        Unregistered = "unregistered",
        /// It ran longer than its limit.
        MaxRuntime = "max_runtime",
        /// Its tree used more memory than its limit.
        MaxRss = "max_rss",
        /// The kernel's out-of-memory killer ended it.
        Oom = "oom",
        /// It was found gone; nobody saw how.
        Gone = "gone",
        /// The machine was restarted.
        Rebooted = "rebooted",
        /// Its owner stopped tracking it.
        Released = "released",
        /// A person closed a row that could not be judged.
        Forgotten = "forgotten",
    }
}

words! {
    /// How an instance stopped.
    StopHow {
        /// It shut down.
        Clean = "clean",
        /// It died without shutting down.
        Crashed = "crashed",
        /// The machine was restarted under it.
        Rebooted = "rebooted",
    }
}

words! {
    /// What kind of leak it was.
    LeakKind {
        /// Its instance was dead.
        Orphan = "orphan",
        /// Its root had ended.
        Stray = "stray",
        /// It matched a configured name and nobody had registered it.
        Unregistered = "unregistered",
    }
}

words! {
    /// What became of a process that was to be ended.
    Outcome {
        /// It was already gone.
        Gone = "gone",
        /// It ended after SIGTERM.
        Term = "term",
        /// It had to be killed.
        Kill = "kill",
        /// It is still there.
        Survived = "survived",
        /// It was left alone on purpose.
        Kept = "kept",
    }
}

words! {
    /// Which check a pass was.
    PassKind {
        /// Are the recorded processes still there?
        Health = "health",
        /// What did dead instances leave?
        Orphan = "orphan",
    }
}

/// Row number of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(pub i64);

/// Row number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ProcessId(pub i64);

/// How a process ended, as far as anyone could see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called exit(3) with this code, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It is dead, but its status went to somebody else: it was not our child, or the host reaped it.
    Unobserved,
}

impl ExitStatus {
    /// It exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The exit code, where it called exit(3).
    pub fn code(self) -> Option<i32> {
        if let Self::Exited(code) = self { Some(code) } else { None }
    }

    /// The signal, where one ended it.
    pub fn signal(self) -> Option<i32> {
        if let Self::Signaled(signal) = self { Some(signal) } else { None }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
            Self::Unobserved => f.write_str("unobserved"),
        }
    }
}

/// An instance about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewInstance {
    pub(crate) program: String,
    pub(crate) identity: Identity,
    pub(crate) uid: u32,
    pub(crate) lock_name: String,
    pub(crate) started_at: Millis,
}

/// One run of a program that opened the ledger for writing.
#[derive(Clone, Debug)]
pub struct InstanceRecord {
    /// Row number.
    pub id: InstanceId,
    /// Name of the embedding program.
    pub program: String,
    /// What makes its process itself.
    pub identity: Identity,
    /// Who it ran as.
    pub uid: u32,
    /// File name, beside the ledger, that it keeps locked while it lives.
    pub lock_name: String,
    /// Device and inode of the ledger file that it opened.
    pub ledger_file: (u64, u64),
    /// When it opened the ledger.
    pub started_at: Millis,
    /// When it stopped, or was found dead.
    pub stopped_at: Option<Millis>,
    /// How it stopped.
    pub stopped_how: Option<StopHow>,
}

/// Limits and habits that a process is tracked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// It outlives its owner and is adopted by the next instance of the same program.
    pub survive: bool,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// It is ended when it runs longer.
    pub max_runtime: Option<Duration>,
    /// It is ended when its tree's resident memory, in bytes, is larger.
    pub max_rss: Option<u64>,
}

/// A process about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewProcess {
    pub(crate) task: Option<TaskId>,
    pub(crate) owner: InstanceId,
    pub(crate) root: Option<ProcessId>,
    pub(crate) origin: Origin,
    pub(crate) token: Option<Uuid>,
    pub(crate) identity: Identity,
    pub(crate) session: Option<Pid>,
    pub(crate) containment: Containment,
    pub(crate) command: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) uid: u32,
    pub(crate) limits: Limits,
    pub(crate) started_at: Millis,
    pub(crate) peak_rss: Option<u64>,
    /// `Running`, or `Ending` (then claimed by `owner`).
    pub(crate) state: State,
    /// A survivor of the same task does not stand in the way.
    pub(crate) allow_survivor: bool,
}

/// One row of the ledger's `process` table.
#[derive(Clone, Debug)]
pub struct ProcessRecord {
    /// Row number.
    pub id: ProcessId,
    /// The caller's unit of work; `None` for what a name sweep found.
    pub task: Option<TaskId>,
    /// Who answers for it now.
    pub owner: InstanceId,
    /// Program name of that instance.
    pub owner_program: String,
    /// The root it was found below; `None` for a root.
    pub root: Option<ProcessId>,
    /// How it came to be here.
    pub origin: Origin,
    /// What its tree carries in `PROCLEDGER_TOKEN`.
    pub token: Option<Uuid>,
    /// What makes it itself.
    pub identity: Identity,
    /// Session or foreground process group that the gate made for it.
    pub session: Option<Pid>,
    /// What keeps its tree together.
    pub containment: Containment,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory at its start, where one was given.
    pub cwd: Option<String>,
    /// Who it runs as.
    pub uid: u32,
    /// Where the row stands.
    pub state: State,
    /// Who is ending it.
    pub claimed_by: Option<InstanceId>,
    /// The person behind a kill.
    pub asked_by: Option<String>,
    /// When it was started, or registered.
    pub started_at: Millis,
    /// When it ended, or was found to have.
    pub ended_at: Option<Millis>,
    /// How it ended; `None` while it runs.
    pub status: Option<ExitStatus>,
    /// Why it ended; `None` while it runs.
    pub end_reason: Option<EndReason>,
    /// Its limits.
    pub limits: Limits,
    /// Largest resident size that was seen, bytes.
    pub peak_rss: Option<u64>,
    /// User and system time at the last look.
    pub cpu: Option<Duration>,
    /// Why the last attempt to end it failed, or why it never ran.
    pub last_error: Option<String>,
}

/// How a row ends.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) reason: EndReason,
    pub(crate) status: ExitStatus,
    pub(crate) at: Millis,
    pub(crate) error: Option<String>,
}

/// A root that ended by itself, and what it left: recorded in one transaction, so that a crash between the two loses nothing.
#[derive(Clone, Debug)]
pub(crate) struct RootEnd {
    pub(crate) process: ProcessId,
    pub(crate) end: End,
    pub(crate) strays: Vec<NewProcess>,
}

/// An instance that is known to be dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadInstance {
    pub(crate) id: InstanceId,
    pub(crate) how: StopHow,
    /// Its processes are gone for certain (a reboot, a dead namespace): no need to look. `None`: each must be looked at.
    pub(crate) processes_gone: Option<EndReason>,
}

/// What a claim of orphans gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrphanClaim {
    /// To be ended by the claimant, which owns them now.
    pub(crate) claimed: Vec<ProcessRecord>,
    /// Marked `survive`, and the claimant is the same program: it owns them now, and they run on.
    pub(crate) adopted: Vec<ProcessRecord>,
    /// Recorded as ended without a look: the machine was restarted, or their namespace is dead.
    pub(crate) gone: Vec<ProcessRecord>,
}

/// What came of a claimed row.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Ended(End),
    /// With what stands in the way.
    Survived(String),
    /// It cannot be told what the process is: the claim is given back.
    Unknown(String),
}

/// What came of a claimed row, with the leak that it was.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) process: ProcessId,
    pub(crate) verdict: Verdict,
    pub(crate) leak: Option<NewLeak>,
}

/// What a health pass saw of a process that lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) process: ProcessId,
    pub(crate) rss: u64,
    pub(crate) cpu: Duration,
}

/// A leak about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewLeak {
    pub(crate) process: ProcessId,
    pub(crate) kind: LeakKind,
    pub(crate) rule: String,
    pub(crate) evidence: String,
    pub(crate) found_at: Millis,
    pub(crate) age: Duration,
    pub(crate) rss: Option<u64>,
    pub(crate) outcome: Outcome,
    pub(crate) died_after: Option<Duration>,
}

/// One leak, joined with its process.
#[derive(Clone, Debug, Serialize)]
pub struct LeakRecord {
    /// Row number of the process.
    pub process: ProcessId,
    /// The task it belonged to.
    pub task_id: Option<TaskId>,
    /// Its pid.
    #[serde(serialize_with = "pid_number")]
    pub pid: Pid,
    /// What it was.
    pub kind: LeakKind,
    /// Why it counts as a leak.
    pub rule: String,
    /// What tied it to the task.
    pub evidence: String,
    /// Unix milliseconds.
    pub found_at: Millis,
    /// Milliseconds from its start until it was found.
    pub age_ms: u64,
    /// Resident bytes when it was found.
    pub rss_bytes: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Milliseconds from the first signal until it was dead.
    pub died_after_ms: Option<u64>,
    /// Program and arguments.
    pub command: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn pid_number<S: serde::Serializer>(pid: &Pid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(pid.get())
}

/// Figures of a pass, as its row has them.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// Which check.
    pub kind: PassKind,
    /// When it started.
    pub started_at: Millis,
    /// How long it took.
    pub duration: Duration,
    /// Processes looked at.
    pub checked: u64,
    /// Of these, that needed something done.
    pub found: u64,
    /// Of these, known to be dead now.
    pub ended: u64,
    /// Of these, that could not be ended.
    pub survived: u64,
    /// That could not be judged and were left alone.
    pub unknown: u64,
    /// The first thing that went wrong.
    pub error: Option<String>,
}

/// One process that a call or a pass dealt with.
#[derive(Clone, Debug, Serialize)]
pub struct Ending {
    /// The task it belonged to.
    pub task_id: Option<TaskId>,
    /// Its pid.
    #[serde(serialize_with = "pid_number")]
    pub pid: Pid,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Why it was dealt with.
    pub rule: String,
    /// What tied it to the task.
    pub evidence: String,
    /// What became of it; in a dry run what would be done.
    pub outcome: Outcome,
    /// Milliseconds from the first signal until it was dead.
    pub died_after_ms: Option<u64>,
    /// For a survivor: what stands in the way, and what to do.
    pub obstacle: Option<String>,
}

/// A process that could not be judged, or looks like a leak but may be a person's; it was left alone.
#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    /// The task whose token it carries, where there is one.
    pub task_id: Option<TaskId>,
    /// Its pid.
    #[serde(serialize_with = "pid_number")]
    pub pid: Pid,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Why it was looked at, and why it was left.
    pub why: String,
}

/// What a call or a pass did, process by process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Processes looked at.
    pub checked: u64,
    /// Each process that was ended, was found gone, or survived.
    pub endings: Vec<Ending>,
    /// Each process that was left alone because nothing certain could be said.
    pub suspects: Vec<Suspect>,
    /// Processes that a dead instance left on purpose and this one took on.
    pub adopted: u64,
    /// What went wrong on the way, a line each. The pass went on.
    pub errors: Vec<String>,
}

impl Report {
    /// How many processes had this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.endings.iter().filter(|ending| ending.outcome == outcome).count() as u64
    }

    /// How many are known to be dead.
    pub fn ended(&self) -> u64 {
        self.count(Outcome::Gone) + self.count(Outcome::Term) + self.count(Outcome::Kill)
    }

    /// How many could not be ended.
    pub fn survived(&self) -> u64 {
        self.count(Outcome::Survived)
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        self.checked += other.checked;
        self.endings.extend(other.endings);
        self.suspects.extend(other.suspects);
        self.adopted += other.adopted;
        self.errors.extend(other.errors);
    }
}

/// One entry of the JSON export, in the seed's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ExportEntry {
    pub(crate) task_id: String,
    pub(crate) process_id: u32,
    /// RFC 3339 in UTC.
    pub(crate) start_time: String,
}

/// Where an observer stands: what it needs to judge rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    pub(crate) place: Place,
    /// Owner of the ledger: only this uid's processes are touched, but for root's ledger.
    pub(crate) uid: u32,
}

impl Observer {
    /// Whether a process of `uid` may be touched on behalf of this ledger.
    pub(crate) fn may_touch(&self, uid: u32) -> bool {
        self.uid == 0 || self.uid == uid
    }
}
