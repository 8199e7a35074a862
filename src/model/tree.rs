//! Trees: a tracked process with all that belongs to it.

use std::time::Duration;

use super::{FigureSource, ProcessId, ProcessRecord, Suspect};
use crate::identity::Pid;

/// A tracked root with its members, as they are now or, where they cannot be seen from here, as they were recorded.
#[derive(Clone, Debug)]
pub struct TreeRecord {
    /// The root's row; a recorded descendant's where its root has ended and it has not.
    pub root: ProcessRecord,
    /// Where members and figures come from.
    pub source: FigureSource,
    /// Why nothing was seen and the ledger had to do; `None` where it was.
    pub obstacle: Option<String>,
    /// The root, whether it lives or not, then everything below it, each process followed by its children.
    pub members: Vec<TreeMember>,
    /// Processes that carry the root's token but may be a person's: no members.
    pub suspects: Vec<Suspect>,
    /// Resident bytes of all members together, shared pages counted for each of them. Where it is recorded: the largest that
    /// a health pass saw; `None` before the first one.
    pub rss_bytes: Option<u64>,
    /// User and system time of all members, and of the children that they have waited for.
    pub cpu: Option<Duration>,
}

impl TreeRecord {
    /// How many live members there are besides the root.
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
    /// The member below which it stands: its parent, where that is one, else the root. `None` for the root.
    pub parent: Option<Pid>,
    /// What ties it to the root, as in the evidence of a leak.
    pub evidence: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it was seen to run. Of recorded members nobody knows: as the ledger has it.
    pub alive: bool,
    /// It is the root.
    pub is_root: bool,
    /// How long it has run.
    pub age: Duration,
    /// Resident bytes, of this process alone.
    pub rss_bytes: Option<u64>,
    /// User and system time, and that of children it has waited for.
    pub cpu: Option<Duration>,
}
