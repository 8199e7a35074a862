//! Instances, the location of observers, and what is claimed from dead instances.

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
    /// File name, beside the ledger, of the file that it keeps locked while it is alive.
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
    /// Its processes are certainly gone (a reboot, a dead namespace) and need no check. `None`: each must be checked.
    pub(crate) processes_gone: Option<EndReason>,
    /// Its process is alive but has since executed another program image: an exec ended the instance.
    pub(crate) replaced: bool,
}

/// The result of claiming orphans.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrphanClaim {
    /// To be ended by the claimant, which owns them now.
    pub(crate) claimed: Vec<ProcessRecord>,
    /// Those whose owner was ended by an exec of its program.
    pub(crate) replaced: HashSet<ProcessId>,
    /// Marked `survive`, and the claimant is the same program: it owns them now, and they keep running.
    pub(crate) adopted: Vec<ProcessRecord>,
    /// Recorded as ended without a check: the machine was restarted, or their namespace is dead.
    pub(crate) gone: Vec<ProcessRecord>,
}

/// Where an observer runs: what it needs to judge rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer {
    pub(crate) scope: PidScope,
    /// Owner of the ledger: only processes of this uid are touched, except with root's ledger.
    pub(crate) uid: u32,
}

impl Observer {
    /// Reports whether a process of `uid` may be touched on behalf of this ledger.
    pub(crate) fn may_touch(&self, uid: u32) -> bool {
        self.uid == 0 || self.uid == uid
    }
}
