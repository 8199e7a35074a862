//! Plain records and reports: the content of the ledger, and the results of passes.
//!
//! Times are [`SystemTime`](std::time::SystemTime)s of whole milliseconds, as the ledger stores them.

mod enums;
mod evidence;
#[cfg(feature = "fleet")]
mod fleet;
mod ids;
mod instance;
mod ledger_event;
mod life;
mod metrics;
mod orphan_scan;
mod process;
mod query;
mod report;
mod rule;
mod shipment;
#[cfg(feature = "fleet")]
mod stream;
mod tree;

pub use crate::sys::{
    EndPlan, ExitStatus, SignalState,
    cgroup::Cgroup,
    spawn::{Attributes, Resource, Rlimit},
};
pub(crate) use enums::StopHow;
pub use enums::{
    Containment, ContainmentMode, EndReason, FigureSource, LeakKind, Origin, Outcome, PassKind,
    State,
};
pub(crate) use evidence::Evidence;
pub use evidence::EvidenceKey;
#[cfg(feature = "fleet")]
pub use fleet::{FleetHost, FleetLeak, FleetProcess};
pub use ids::{InstanceId, ProcessId, TASK_ID_MAX, TaskId};
pub(crate) use ids::{Millis, millis, task_text};
pub(crate) use instance::{DeadInstance, InstanceRecord, NewInstance, Observer, OrphanClaim};
pub use ledger_event::LedgerEvent;
pub(crate) use life::Event;
pub use life::{End, Justification, Life};
pub(crate) use metrics::LedgerCounts;
pub use metrics::{
    EndCount, Histogram, InstanceCount, LeakCount, LedgerMetrics, LedgerPasses, Metrics,
    PassMetrics,
};
pub use orphan_scan::{OrphanMember, OrphanScan, OrphanTree, OrphansLeftOut};
pub(crate) use process::{
    CPU_STEP, ExportEntry, ExportRow, ExportUpdate, LateEnd, NewProcess, RootEnd, Row, Settled,
    Sighting, Verdict,
};
pub use process::{Limits, ProcessRecord, ProcessSpec};
pub use query::Query;
pub(crate) use report::NewLeak;
pub(crate) use report::unix_millis;
pub use report::{Ending, LeakRecord, PassRecord, PassSummary, Report, Suspect};
pub use rule::RuleKey;
pub(crate) use rule::{Named, Rule, SpareReason};
pub(crate) use shipment::Shipment;
#[cfg(feature = "fleet")]
pub(crate) use stream::{Acknowledged, PassDay, print_of_leak, print_of_process};
#[cfg(feature = "fleet")]
pub use stream::{Batch, LostRow, OpenProcess, Position, StreamLeak, StreamProcess};
pub use tree::{TreeMember, TreeRecord};
#[cfg(test)]
pub(crate) use {
    evidence::tests::all as evidence_of_each_kind, rule::tests::all as rules_of_each_kind,
};
