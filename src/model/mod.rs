//! Plain records and reports: the content of the ledger, and the results of passes.
//!
//! All times are [`Millis`], unix milliseconds as the ledger stores them.

mod ids;
mod instance;
mod metrics;
mod process;
mod report;
pub(crate) mod state;
mod tree;
mod words;

pub use crate::sys::{ExitStatus, cgroup::Cgroup};
pub use ids::{InstanceId, Millis, ProcessId, TASK_ID_MAX, TaskId};
pub(crate) use ids::{millis, task_text};
pub use instance::InstanceRecord;
pub(crate) use instance::{DeadInstance, NewInstance, Observer, OrphanClaim};
pub(crate) use metrics::LedgerCounts;
pub use metrics::{
    EndCount, Histogram, InstanceCount, LeakCount, LedgerMetrics, LedgerPasses, Metrics,
    PassMetrics,
};
pub(crate) use process::{
    Because, CPU_STEP, End, ExportEntry, LateEnd, NewProcess, RootEnd, Settled, Sighting, Verdict,
};
pub use process::{Limits, ProcessRecord};
pub(crate) use report::NewLeak;
pub use report::{Ending, LeakRecord, PassRecord, PassSummary, Report, Suspect};
pub use tree::{TreeMember, TreeRecord};
pub use words::{
    Containment, ContainmentMode, EndReason, FigureSource, LeakKind, Origin, Outcome, PassKind,
    StopHow,
};
