//! A program that is to be started, with everything that it gets.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use super::attributes::Attributes;
pub(crate) use super::child::Session;
use crate::sys::{cgroup::TaskCgroup, signal_state::SignalState};

/// The source of one of the program's standard descriptors.
#[derive(Clone, Debug)]
pub(crate) enum StdioSource {
    Inherit,
    Null,
    Piped,
    /// Shared by the copies of a job.
    Fd(Arc<OwnedFd>),
    /// A file in memory with these bytes.
    Bytes(Arc<[u8]>),
    /// For standard error: the same as standard output.
    Merge,
    /// No descriptor at all.
    Closed,
}

/// A program, ready to be started.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: OsString,
    /// Its argument zero, if that is not the program.
    pub(crate) arg0: Option<OsString>,
    pub(crate) args: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    /// Stdin, stdout, stderr.
    pub(crate) stdio: [StdioSource; 3],
    pub(crate) signals: SignalState,
    /// Descriptors besides the standard ones, with the numbers that they get.
    pub(crate) fds: Vec<(i32, Arc<OwnedFd>)>,
    /// Numbers of the host's descriptors that the program gets as well, in ascending order.
    pub(crate) inherited: Vec<i32>,
    /// Whether `LISTEN_PID` is set to the PID that the program gets.
    pub(crate) listens: bool,
    pub(crate) attributes: Attributes,
    pub(crate) session: Session,
    pub(crate) target: Option<TargetCgroup>,
}

/// The cgroup in which a child is created.
#[derive(Debug)]
pub(crate) struct TargetCgroup {
    pub(crate) task_cgroup: TaskCgroup,
    /// Whether to fail if the child cannot be created in it.
    pub(crate) required: bool,
}
