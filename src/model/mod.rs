//! Plain records and reports: the content of the ledger, and the results of passes.
//!
//! Times are [`SystemTime`](std::time::SystemTime)s of whole milliseconds, as the ledger stores
//! them.

mod evidence;
#[cfg(feature = "fleet")]
mod fleet;
mod ids;
mod instance;
mod leak;
mod ledger_event;
mod life;
mod metrics;
mod millis;
mod orphan_scan;
mod pass;
mod process;
mod query;
mod report;
mod rule;
mod shipment;
mod stored_enums;
#[cfg(feature = "fleet")]
mod stream;
mod tree;

pub use crate::sys::{
    EndPlan, ExitStatus, SignalState,
    cgroup::Cgroup,
    spawn::{Attributes, Resource, Rlimit},
};
pub(crate) use evidence::Evidence;
pub use evidence::EvidenceKey;
#[cfg(feature = "fleet")]
pub use fleet::{FleetHost, FleetLeak, FleetProcess};
pub(crate) use ids::task_text;
pub use ids::{InstanceId, ProcessId, TASK_ID_MAX, TaskId};
pub(crate) use instance::{DeadInstance, InstanceRecord, NewInstance, Observer, OrphanClaim};
pub use leak::LeakRecord;
pub(crate) use leak::NewLeak;
pub use ledger_event::LedgerEvent;
pub(crate) use life::Event;
pub use life::{End, Justification, Life};
pub(crate) use metrics::LedgerCounts;
pub use metrics::{
    EndCount, Histogram, InstanceCount, LeakCount, LedgerMetrics, LedgerPasses, Metrics,
    PassMetrics,
};
pub(crate) use millis::{Millis, millis, unix_millis};
pub use orphan_scan::{OrphanMember, OrphanScan, OrphanTree, OrphansLeftOut};
pub use pass::{PassRecord, PassSummary};
pub(crate) use process::{
    CPU_STEP, ExportEntry, ExportRow, ExportUpdate, LateEnd, NewProcess, RootEnd, Row, Settled,
    Sighting, Verdict,
};
pub use process::{Limits, ProcessRecord, ProcessSpec};
pub use query::Query;
pub use report::{Ending, Report, Suspect};
pub use rule::RuleKey;
pub(crate) use rule::{Named, Rule, SpareReason};
pub(crate) use shipment::Shipment;
pub(crate) use stored_enums::StopHow;
pub use stored_enums::{
    Containment, ContainmentMode, EndReason, FigureSource, LeakKind, Origin, Outcome, PassKind,
    State,
};
#[cfg(feature = "fleet")]
pub(crate) use stream::{Acknowledged, PassDay, print_of_leak, print_of_process};
#[cfg(feature = "fleet")]
pub use stream::{Batch, LostRow, OpenProcess, Position, StreamLeak, StreamProcess};
pub use tree::{TreeMember, TreeRecord};
#[cfg(test)]
pub(crate) use {
    evidence::tests::all as evidence_of_each_kind, rule::tests::all as rules_of_each_kind,
};
