//! Instances, observers, and the rows that are claimed from dead instances.

use std::collections::HashSet;

use super::{EndReason, InstanceId, Millis, ProcessId, ProcessRecord, StopHow};
use crate::identity::{Identity, PidScope};

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
pub(crate) struct InstanceRecord {
    /// Row number.
    pub(crate) id: InstanceId,
    /// Name of the embedding program.
    pub(crate) program: String,
    /// What identifies its process.
    pub(crate) identity: Identity,
    /// Name of the file beside the ledger that it keeps locked while it is alive.
    pub(crate) lock_name: String,
    /// Device and inode of the ledger file that it opened.
    pub(crate) ledger_file: (u64, u64),
    /// When it stopped, or was found dead.
    pub(crate) stopped_at: Option<Millis>,
    /// How it stopped.
    pub(crate) stopped_how: Option<StopHow>,
}

/// An instance that is known to be dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadInstance {
    pub(crate) id: InstanceId,
    pub(crate) how: StopHow,
    /// The reason why its processes are certainly gone (a reboot, a dead namespace). `None` if each
    /// process must be checked.
    pub(crate) processes_gone: Option<EndReason>,
    /// Its process is alive but has since executed another program image: an exec ended the
    /// instance.
    pub(crate) replaced: bool,
}

/// The result of claiming orphans.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrphanClaim {
    /// Rows whose processes the claimant, which owns them now, must end.
    pub(crate) claimed: Vec<ProcessRecord>,
    /// Those of them whose owner was ended by an exec of its program.
    pub(crate) replaced: HashSet<ProcessId>,
    /// Rows marked `survive` of the claimant's program: it owns them now, and they keep running.
    pub(crate) adopted: Vec<ProcessRecord>,
    /// Rows that were recorded as ended without a check, because the machine was restarted or their
    /// namespace is dead.
    pub(crate) gone: Vec<ProcessRecord>,
}

/// An observer: where it runs, which it must know to judge rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    pub(crate) scope: PidScope,
    /// Owner of the ledger. Only processes of this uid are touched, unless it is root.
    pub(crate) uid: u32,
}

impl Observer {
    /// Reports whether a process of `uid` may be touched on behalf of this ledger.
    pub(crate) fn may_touch(&self, uid: u32) -> bool {
        self.uid == 0 || self.uid == uid
    }
}
