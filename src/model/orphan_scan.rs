//! The result of a scan of the machine for orphaned processes, which needs no ledger.

use std::time::Duration;

use serde::Serialize;

use super::millis::whole_millis;
use crate::identity::Pid;

/// Processes that look orphaned, each with its descendants.
#[derive(Clone, Debug, Serialize)]
pub struct OrphanScan {
    /// Whether systemd manages services here. If not, services cannot be distinguished from
    /// orphans.
    pub systemd: bool,
    /// The trees, the oldest first.
    pub trees: Vec<OrphanTree>,
    /// The processes that looked orphaned but were left out.
    pub left_out: OrphansLeftOut,
    /// What could not be examined, one line each.
    pub errors: Vec<String>,
}

/// A process that looks orphaned, with its descendants.
#[derive(Clone, Debug, Serialize)]
pub struct OrphanTree {
    /// Its pid.
    pub pid: Pid,
    /// Its current parent, which has adopted it.
    pub parent: Pid,
    /// Why it is listed.
    pub why: String,
    /// The name by which [`Builder::orphan_name`](crate::Builder::orphan_name) would match it;
    /// `None` if it has none.
    pub name: Option<String>,
    /// The ledger that is named in its environment (`PROCLEDGER_LEDGER`), if that also contains the
    /// token of a task.
    pub ledger: Option<String>,
    /// How long it has run.
    #[serde(rename = "age_ms", serialize_with = "whole_millis")]
    pub age: Duration,
    /// Resident bytes of all members together, shared pages counted for each of them.
    pub rss_bytes: u64,
    /// User and system time of all members, and of children that they have waited for.
    #[serde(rename = "cpu_ms", serialize_with = "whole_millis")]
    pub cpu: Duration,
    /// The process, then its descendants, each followed by its children.
    pub members: Vec<OrphanMember>,
}

/// One process of an [`OrphanTree`].
#[derive(Clone, Debug, Serialize)]
pub struct OrphanMember {
    /// Its pid.
    pub pid: Pid,
    /// The member that is its parent; `None` for the first one.
    pub parent: Option<Pid>,
    /// How long it has run.
    #[serde(rename = "age_ms", serialize_with = "whole_millis")]
    pub age: Duration,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// User and system time, and that of children that it has waited for.
    #[serde(rename = "cpu_ms", serialize_with = "whole_millis")]
    pub cpu: Duration,
    /// Its working directory; `None` if it may not be read.
    pub cwd: Option<String>,
    /// Program and arguments, with secrets masked.
    pub command: Vec<String>,
}

/// How many processes looked orphaned and were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OrphansLeftOut {
    /// Younger than the minimum age.
    pub young: u64,
    /// In a service of systemd.
    pub services: u64,
    /// Tracked by a live instance of a ledger, or programs of this crate.
    pub tracked: u64,
    /// In a PID namespace of their own, such as a container.
    pub containers: u64,
    /// With a controlling terminal, or with a descendant that has one: a person may be working
    /// there.
    pub terminals: u64,
}
