//! Trees: a tracked process with all its members.

use std::time::Duration;

use super::{FigureSource, ProcessId, ProcessRecord, Suspect};
use crate::identity::Pid;

/// A tracked root with its members, as they are now or, where they cannot be observed from here, as they were recorded.
#[derive(Clone, Debug)]
pub struct TreeRecord {
    /// The root's row; a recorded descendant's where its root has ended and it has not.
    pub root: ProcessRecord,
    /// Whether the instance that owns it is alive; `None` where that cannot be determined from here.
    pub owner_alive: Option<bool>,
    /// Where members and figures come from.
    pub source: FigureSource,
    /// Why nothing was observed and the recorded data is used; `None` where it was.
    pub obstacle: Option<String>,
    /// The root, whether alive or not, then everything below it, each process followed by its children.
    pub members: Vec<TreeMember>,
    /// Processes that carry the root's token but may be a person's: they are not members.
    pub suspects: Vec<Suspect>,
    /// Resident bytes of all members together, shared pages counted for each of them. For recorded figures: the largest that a
    /// health pass observed; `None` before the first one.
    pub rss_bytes: Option<u64>,
    /// User and system time of all members, and of the children that they have waited for.
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
    /// Its row, where the ledger has one: of every root, and of descendants since the first health pass that saw them.
    pub process: Option<ProcessId>,
    /// Its pid.
    pub pid: Pid,
    /// The member below which it is placed: its parent, where that is a member, otherwise the root. `None` for the root.
    pub parent: Option<Pid>,
    /// The evidence that links it to the root, as in the evidence of a leak.
    pub evidence: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it was observed to run. For recorded members this is unknown: the state in the ledger.
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
