//! The record of a cgroup in a ledger.

use std::path::PathBuf;

/// Prefix of the name of an instance's cgroup; the rest is specific to the instance.
pub(super) const PREFIX: &str = "procledger-";

/// A cgroup v2 that was created for one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its folder below the cgroup v2 mount.
    pub path: PathBuf,
    /// The folder's inode: the cgroup's id, which is not reused within one boot.
    pub inode: u64,
}
