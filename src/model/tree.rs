//! Trees: a tracked process with all its members.

use std::time::Duration;

use super::{FigureSource, ProcessId, ProcessRecord, Suspect};
use crate::identity::Pid;

/// A tracked root with its members, as they are now or, if they cannot be observed from here, as
/// they were recorded.
#[derive(Clone, Debug)]
pub struct TreeRecord {
    /// The row of the root, or of a recorded descendant that is still running after its root has
    /// ended.
    pub root: ProcessRecord,
    /// Whether the instance that owns it is alive; `None` if that cannot be determined from here.
    pub owner_alive: Option<bool>,
    /// The source of members and figures.
    pub source: FigureSource,
    /// Why the tree could not be observed and the recorded data is used; `None` if it was observed.
    pub obstacle: Option<String>,
    /// The root, whether alive or not, then all its descendants, each process followed by its
    /// children.
    pub members: Vec<TreeMember>,
    /// Processes that carry the root's token but that a person may be using: they are not members.
    pub suspects: Vec<Suspect>,
    /// Resident bytes of all members together, shared pages counted for each of them. For recorded
    /// figures: the largest that a health pass observed; `None` before the first one.
    pub rss_bytes: Option<u64>,
    /// User and system time of all members, and of children that they have waited for.
    pub cpu: Option<Duration>,
}

impl TreeRecord {
    /// Returns how many live members there are besides the root.
    pub fn descendants(&self) -> u64 {
        self.members.iter().filter(|member| member.alive && !member.is_root).count() as u64
    }
}

/// One member of a tree.
#[derive(Clone, Debug)]
pub struct TreeMember {
    /// Its row, if the ledger has one: every root has a row, and a descendant has one from the
    /// first health pass that saw it.
    pub process: Option<ProcessId>,
    /// Its pid.
    pub pid: Pid,
    /// The member below which it is placed: its parent if that is a member, otherwise the root.
    /// `None` for the root.
    pub parent: Option<Pid>,
    /// The evidence that links it to the root, in the same words as for a leak.
    pub evidence: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it is alive; for recorded members, whether it is alive according to the ledger.
    pub alive: bool,
    /// Whether it is the root.
    pub is_root: bool,
    /// How long it has run.
    pub age: Duration,
    /// Resident bytes, of this process alone.
    pub rss_bytes: Option<u64>,
    /// User and system time, and that of children that it has waited for.
    pub cpu: Option<Duration>,
}
