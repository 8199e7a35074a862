//! What a caller wants to start.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf};

pub(crate) use super::child::Session;
use crate::sys::{cgroup::TaskCgroup, signal_state::SignalState};

/// The source of one of the program's standard descriptors.
#[derive(Debug)]
pub(crate) enum StdioSource {
    Inherit,
    Null,
    Piped,
    Fd(OwnedFd),
    /// No descriptor at all.
    Closed,
}

/// A program, ready to be started.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    /// Stdin, stdout, stderr.
    pub(crate) stdio: [StdioSource; 3],
    pub(crate) signals: SignalState,
    pub(crate) session: Session,
    pub(crate) place: Option<Place>,
}

/// The cgroup that a child is created in.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) leaf: TaskCgroup,
    /// Fail if the child cannot be created in it.
    pub(crate) must: bool,
}
