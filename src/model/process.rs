//! Processes: the content of their rows, and the results of claims.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use uuid::Uuid;

use super::{Containment, End, InstanceId, Life, Millis, NewLeak, Origin, ProcessId, TaskId};
use crate::{
    identity::{Identity, Pid},
    sys::{EndPlan, cgroup::Cgroup, spawn::Attributes},
};

/// The limits and settings with which a process is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whether it outlives its owner and is adopted by the next instance of the same program.
    pub survive: bool,
    /// Time between the first signal and SIGKILL; if the job has stop signals, the sum of their
    /// waits.
    pub grace: Duration,
    /// It is ended when it runs longer than this.
    pub max_runtime: Option<Duration>,
    /// It is ended when its tree's resident memory, in bytes, is larger than this.
    pub max_rss: Option<u64>,
}

impl Limits {
    /// Returns the settings of a process with this grace, no limits, and no setting that differs
    /// from the default.
    pub(crate) fn with_grace(grace: Duration) -> Self {
        Self { survive: false, grace, max_runtime: None, max_rss: None }
    }
}

/// The facts of a process that are fixed when it is recorded.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// The caller's unit of work; `None` for a process that a name match found.
    pub task_id: Option<TaskId>,
    /// The instance that recorded it.
    pub recorded_by: InstanceId,
    /// The root below which it was found; `None` for a root.
    pub root: Option<ProcessId>,
    /// How it came into the ledger.
    pub origin: Origin,
    /// The token in `PROCLEDGER_TOKEN` of its tree.
    pub token: Option<Uuid>,
    /// What identifies it.
    pub identity: Identity,
    /// Session or foreground process group that the gate created for it.
    pub session: Option<Pid>,
    /// The task cgroup that was created for it.
    pub cgroup: Option<Cgroup>,
    /// What contains its tree.
    pub containment: Containment,
    /// The keeper that created it, in the same PID scope; `None` without one, and in rows of
    /// versions before 0.2, which did not record it.
    pub keeper: Option<Identity>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory at its start, if one was given.
    pub cwd: Option<String>,
    /// The user that it runs as.
    pub uid: u32,
    /// The attributes that it was started with instead of those that it would have inherited from
    /// its host.
    pub attributes: Attributes,
    /// Its limits.
    pub limits: Limits,
    /// How its tree is signalled to end, apart from the grace.
    pub end_plan: EndPlan,
    /// When it was started, or registered.
    pub started_at: SystemTime,
    /// The evidence that linked a descendant to its root when it was found; `None` for a root.
    pub evidence: Option<String>,
}

impl ProcessSpec {
    /// Returns a spec with the facts that every process has, and without the optional ones.
    pub(crate) fn new(
        recorded_by: InstanceId,
        origin: Origin,
        identity: Identity,
        uid: u32,
        limits: Limits,
    ) -> Self {
        Self {
            task_id: None,
            recorded_by,
            root: None,
            origin,
            token: None,
            identity,
            session: None,
            cgroup: None,
            containment: Containment::None,
            keeper: None,
            command: Vec::new(),
            cwd: None,
            uid,
            attributes: Attributes::default(),
            limits,
            end_plan: EndPlan::default(),
            started_at: Millis::now().into(),
            evidence: None,
        }
    }

    /// Returns the time between the first signal to its tree and SIGKILL, not counting the up to
    /// 2 s more for a tree whose processes keep ending.
    pub fn asking_time(&self) -> Duration {
        self.end_plan.asking_time(self.limits.grace)
    }
}

/// A process about to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct NewProcess {
    pub(crate) spec: ProcessSpec,
    /// Whether the instance that records it is ending it from the start.
    pub(crate) claimed: bool,
    pub(crate) peak_rss: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    /// Whether a survivor of the same task is allowed.
    pub(crate) allow_survivor: bool,
}

impl From<ProcessSpec> for NewProcess {
    fn from(spec: ProcessSpec) -> Self {
        Self { spec, claimed: false, peak_rss: None, cpu: None, allow_survivor: false }
    }
}

/// One row of the ledger's `process` table.
#[derive(Clone, Debug)]
pub struct ProcessRecord {
    /// Row number.
    pub id: ProcessId,
    /// What was fixed when it was recorded.
    pub spec: ProcessSpec,
    /// What it is doing, or how it ended.
    pub life: Life,
    /// The instance that is responsible for it now.
    pub owner: InstanceId,
    /// Program name of that instance.
    pub owner_program: String,
    /// The person who requested a kill.
    pub requested_by: Option<String>,
    /// Largest resident size that was observed, in bytes.
    pub peak_rss: Option<u64>,
    /// User and system time at the last observation.
    pub cpu: Option<Duration>,
    /// Why the last attempt to end it failed, or why it never ran.
    pub last_error: Option<String>,
}

impl ProcessRecord {
    /// Returns its pid. If this process has ended, another one may have the pid by now.
    pub fn pid(&self) -> Pid {
        self.spec.identity.pid
    }
}

/// A root that ended by itself, with the processes that it left. Both are recorded in one
/// transaction, so that a crash loses nothing.
#[derive(Clone, Debug)]
pub(crate) struct RootEnd {
    pub(crate) process: ProcessId,
    pub(crate) end: End,
    pub(crate) strays: Vec<NewProcess>,
    /// Processes that are left on purpose, or are gone.
    pub(crate) kept: Vec<Settled>,
}

/// An end that could not be written yet, with the data that identifies its row.
#[derive(Clone, Debug)]
pub(crate) struct LateEnd {
    pub(crate) process: ProcessId,
    pub(crate) pid: Pid,
    pub(crate) start_tick: u64,
    /// For messages; not stored in the file.
    pub(crate) task: Option<TaskId>,
    pub(crate) end: End,
    /// The leak that it was.
    pub(crate) leak: Option<NewLeak>,
}

/// The result for a claimed process.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Ended(End),
    /// It was left running on purpose, and no instance is responsible for it any more.
    Kept(End),
    /// It survived, with the reason.
    Survived(String),
    /// It cannot be identified: the claim is given back.
    Unknown(String),
    /// The attempt was interrupted during its grace period: the claim is given back, and no other
    /// attempt is due.
    Interrupted,
}

/// The row that a result is written to.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    Existing(ProcessId),
    /// It is inserted together with the result.
    New(Box<NewProcess>),
}

impl From<ProcessId> for Row {
    fn from(id: ProcessId) -> Self {
        Self::Existing(id)
    }
}

impl Row {
    pub(crate) fn id(&self) -> Option<ProcessId> {
        if let Self::Existing(id) = self { Some(*id) } else { None }
    }
}

/// A result to be written, with the leak if it was one.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) row: Row,
    pub(crate) verdict: Verdict,
    pub(crate) leak: Option<NewLeak>,
}

impl Settled {
    /// Returns a result without a leak.
    pub(crate) fn new(row: impl Into<Row>, verdict: Verdict) -> Self {
        Self { row: row.into(), verdict, leak: None }
    }
}

/// CPU time is written only after it has grown by this much, so that a pass over sleeping processes
/// writes nothing.
pub(crate) const CPU_STEP: Duration = Duration::from_secs(1);

/// A health pass's observation of a live process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) process: ProcessId,
    pub(crate) rss: u64,
    pub(crate) cpu: Duration,
}

/// One entry of the JSON export, with the former implementation's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ExportEntry {
    pub(crate) task_id: String,
    pub(crate) process_id: u32,
    /// RFC 3339 in UTC.
    pub(crate) start_time: String,
}

/// A row of the export. Rows sort by these fields, the longest-running first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportRow {
    pub(crate) started: Millis,
    pub(crate) id: ProcessId,
    pub(crate) entry: ExportEntry,
}

/// A change to the exported list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExportUpdate {
    /// The whole list, in no order.
    All(Vec<ExportRow>),
    /// Rows that may have changed; `None` for a row that is not, or no longer, exported.
    Rows(Vec<(ProcessId, Option<ExportRow>)>),
}
