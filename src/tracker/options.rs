//! The options of a tracker.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::caller::Caller;
use crate::{
    error::{Error, Result},
    model::{ContainmentMode, Limits},
    store::Upgrade,
    sys::keeper::is_secure,
};

/// The environment variable with which operators choose the containment without changing the
/// program.
const CONTAINMENT_VARIABLE: &str = "PROCLEDGER_CONTAINMENT";

/// The options of a tracker.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each with its own setter")]
pub(in crate::tracker) struct Options {
    pub(in crate::tracker) program: String,
    pub(in crate::tracker) export: Option<PathBuf>,
    pub(in crate::tracker) orphan_names: Vec<String>,
    pub(in crate::tracker) protected: Vec<String>,
    pub(in crate::tracker) min_age: Duration,
    pub(in crate::tracker) health_interval: Duration,
    pub(in crate::tracker) grace: Duration,
    pub(in crate::tracker) monitor: bool,
    pub(in crate::tracker) reap_on_open: bool,
    /// `None` for the value of the environment variable, or else `Auto`.
    pub(in crate::tracker) containment: Option<ContainmentMode>,
    /// The folder in which the instance cgroup is created; `None` to detect one.
    pub(in crate::tracker) cgroup: Option<PathBuf>,
    /// The executable to use as the keeper; `None` to search for one.
    pub(in crate::tracker) keeper: Option<PathBuf>,
    pub(in crate::tracker) record_arguments: bool,
    pub(in crate::tracker) keep_history: Duration,
    pub(in crate::tracker) limit_size: Option<u64>,
    /// A folder whose writers are trusted not to replace the ledger.
    pub(in crate::tracker) trust_folder: Option<PathBuf>,
    pub(in crate::tracker) upgrade: Upgrade,
    /// The number of connections that read, besides the one that writes.
    pub(in crate::tracker) readers: u32,
    /// The process on whose behalf this host runs its tasks.
    pub(in crate::tracker) caller: Option<Caller>,
    /// Whether zombies that belong to no task are reaped as well.
    pub(in crate::tracker) reap_all: bool,
}

impl Options {
    /// Returns the limits of a process that sets none of its own.
    pub(in crate::tracker) fn limits(&self) -> Limits {
        Limits::with_grace(self.grace)
    }

    /// Returns the requested mode: the caller's, or else that of the environment.
    pub(in crate::tracker) fn containment_mode(&self) -> Result<ContainmentMode> {
        if let Some(mode) = self.containment {
            return Ok(mode);
        }
        let Some(word) = std::env::var_os(CONTAINMENT_VARIABLE).filter(|word| !word.is_empty())
        else {
            return Ok(ContainmentMode::Auto);
        };
        word.to_str().and_then(ContainmentMode::parse).ok_or_else(|| {
            Error::invalid(format!(
                "{CONTAINMENT_VARIABLE} is {:?}: set it to auto, cgroup, keeper or session",
                word.to_string_lossy()
            ))
        })
    }
}

/// The environment variable with which operators trust a folder without changing the program.
const TRUST_VARIABLE: &str = "PROCLEDGER_TRUST_FOLDER";

/// Returns the trusted folder: `named`, or else that of the environment. An empty path trusts no
/// folder, whatever the environment says.
pub(super) fn trusted_or_by_environment(named: Option<&Path>) -> Option<PathBuf> {
    let folder = named.map(Path::to_owned).or_else(trusted_by_environment);
    folder.filter(|folder| !folder.as_os_str().is_empty())
}

/// Returns the folder that `PROCLEDGER_TRUST_FOLDER` names. It has no effect if a program has more
/// rights than its caller.
fn trusted_by_environment() -> Option<PathBuf> {
    let folder = std::env::var_os(TRUST_VARIABLE).filter(|folder| !folder.is_empty())?;
    (!is_secure()).then(|| folder.into())
}
