//! Descriptors above the standard ones that this process has inherited, and its limit on
//! descriptors.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::{Failure, Result};

/// Number of descriptors that an owner or a reaper may need at once, besides those that it has
/// inherited: the standard ones, those for the ledger, its locks and the cgroup, and those by which
/// processes are found and ended. 22 were enough for a small tree in a cgroup.
const NEEDED: u64 = 32;

/// The numbers of inherited descriptors.
#[derive(Debug)]
pub(crate) struct Inherited(Vec<i32>);

impl Inherited {
    /// Lists the inherited descriptors. Must be called before this process opens any itself, and
    /// while no other thread runs.
    pub(crate) fn list() -> io::Result<Self> {
        let entries = fs::read_dir("/proc/self/fd")?;
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut numbers: Vec<i32> = numbers.filter(|&number| number > 2).collect();
        // The descriptor that the list was read from is closed by now.
        numbers.retain(|number| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
        Ok(Self(numbers))
    }

    /// Fails if the hard limit on descriptors is too low to end a tree. `run` raises its soft limit
    /// to it once its program runs, and would then miss processes for lack of a descriptor to find
    /// them with.
    pub(crate) fn check_hard_limit(&self) -> Result<()> {
        self.check(getrlimit(Resource::Nofile).maximum)
    }

    fn check(&self, limit: Option<u64>) -> Result<()> {
        let needed = NEEDED + self.0.len() as u64;
        match limit {
            Some(limit) if limit < needed => Err(Failure::new(format!(
                "the limit of {limit} descriptors is too low to find and end processes: raise it to {needed} or more \
                 (`ulimit -n {needed}`)"
            ))),
            _ => Ok(()),
        }
    }

    /// Closes them, since no code in this process owns them.
    pub(crate) fn close(&self) {
        for &number in &self.0 {
            let _ = nix::unistd::close(number);
        }
    }
}

/// Raises the soft limit on descriptors of this process to its hard limit, if that is allowed: a
/// tree is ended through a descriptor for each of its processes. Called once the program runs,
/// which gets the limit that this process has inherited.
pub(crate) fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Raises the limit, and fails if it is too low to end a tree. For a command that starts no
/// program. Must be called while no other thread runs.
pub(crate) fn demand_descriptors() -> Result<()> {
    raise_descriptor_limit();
    check_descriptor_limit()
}

/// Fails if the soft limit is too low to end a tree. Must be called while no other thread runs.
pub(crate) fn check_descriptor_limit() -> Result<()> {
    // Without `/proc` the command fails later, with a message about that.
    let soft = getrlimit(Resource::Nofile).current;
    Inherited::list().map_or(Ok(()), |inherited| inherited.check(soft))
}
