//! Processes: what is recorded of one, how it ends, and the result of a claim.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{
    Containment, EndReason, ExitStatus, InstanceId, Millis, NewLeak, Origin, ProcessId, TaskId,
    state::State,
};
use crate::{
    identity::{Identity, Pid},
    sys::cgroup::Cgroup,
};

/// Limits and settings that a process is tracked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whether it outlives its owner and is adopted by the next instance of the same program.
    pub survive: bool,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// It is ended when it runs longer than this.
    pub max_runtime: Option<Duration>,
    /// It is ended when its tree's resident memory, in bytes, is larger than this.
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
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) containment: Containment,
    /// The keeper that created it, in the same place as `identity`.
    pub(crate) keeper: Option<Identity>,
    pub(crate) command: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) uid: u32,
    pub(crate) limits: Limits,
    pub(crate) started_at: Millis,
    pub(crate) peak_rss: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    /// The evidence that links a descendant to its root.
    pub(crate) evidence: Option<String>,
    /// `Running`, or `Ending` (then claimed by `owner`).
    pub(crate) state: State,
    /// Whether a survivor of the same task is allowed.
    pub(crate) allow_survivor: bool,
}

/// One row of the ledger's `process` table.
#[derive(Clone, Debug)]
pub struct ProcessRecord {
    /// Row number.
    pub id: ProcessId,
    /// The caller's unit of work; `None` for a process that a name match found.
    pub task: Option<TaskId>,
    /// The instance that is responsible for it now.
    pub owner: InstanceId,
    /// Program name of that instance.
    pub owner_program: String,
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
    /// The cgroup leaf that was created for it.
    pub cgroup: Option<Cgroup>,
    /// What keeps its tree together.
    pub containment: Containment,
    /// The keeper above it; `None` without one, and in rows of versions before 0.2, which did not record it.
    pub keeper: Option<Identity>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory at its start, where one was given.
    pub cwd: Option<String>,
    /// The user that it runs as.
    pub uid: u32,
    /// The state of the row.
    pub state: State,
    /// The instance that is ending it.
    pub claimed_by: Option<InstanceId>,
    /// The person who requested a kill.
    pub asked_by: Option<String>,
    /// When it was started, or registered.
    pub started_at: Millis,
    /// When it ended, or was found to have ended.
    pub ended_at: Option<Millis>,
    /// How it ended; `None` while it runs.
    pub status: Option<ExitStatus>,
    /// Why it ended; `None` while it runs.
    pub end_reason: Option<EndReason>,
    /// Why it was ended, in words; `None` where it ended by itself.
    pub end_rule: Option<String>,
    /// The evidence that linked it to its task when it was ended.
    pub end_evidence: Option<String>,
    /// Its limits.
    pub limits: Limits,
    /// Largest resident size that was observed, bytes.
    pub peak_rss: Option<u64>,
    /// User and system time at the last observation.
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
    /// Why and on what evidence it was ended; `None` where it ended by itself.
    pub(crate) because: Option<Because>,
}

/// The rule and the evidence of a kill (invariant 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Because {
    pub(crate) rule: String,
    pub(crate) evidence: String,
}

/// A root that ended by itself, and the processes that it left: recorded in one transaction, so that a crash between the two
/// loses nothing.
#[derive(Clone, Debug)]
pub(crate) struct RootEnd {
    pub(crate) process: ProcessId,
    pub(crate) end: End,
    pub(crate) strays: Vec<NewProcess>,
    /// Those of them that are left on purpose, or are gone.
    pub(crate) kept: Vec<Settled>,
}

/// An end that could not be written, with the data that identifies its row.
#[derive(Clone, Debug)]
pub(crate) struct LateEnd {
    pub(crate) process: ProcessId,
    pub(crate) pid: Pid,
    pub(crate) start_tick: u64,
    /// For messages; not stored in the file.
    pub(crate) task: Option<TaskId>,
    pub(crate) end: End,
}

/// The result of a claim.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Ended(End),
    /// It survived, with the reason.
    Survived(String),
    /// It cannot be determined which process it is: the claim is given back.
    Unknown(String),
    /// It has ended, and is recorded only now, together with its end: with its row.
    Found(Box<NewProcess>, End),
    /// The attempt was interrupted during its grace period: the claim is given back, and no other attempt is due.
    Interrupted,
    /// It was left running on purpose, and no instance is responsible for it any more. With its row, where it has none yet.
    Kept(Option<Box<NewProcess>>, End),
}

/// The result of a claim, with the leak that it was.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    /// [`ProcessId::UNRECORDED`] where the verdict contains the row.
    pub(crate) process: ProcessId,
    pub(crate) verdict: Verdict,
    pub(crate) leak: Option<NewLeak>,
}

/// CPU time is written when it changed by this much: a pass over sleeping processes writes nothing.
pub(crate) const CPU_STEP: Duration = Duration::from_secs(1);

/// What a health pass observed of a live process.
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
