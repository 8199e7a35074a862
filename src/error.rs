//! The crate's only error type.
//!
//! [`Error`] is opaque: a message that names its subject, predicates for the kind of error, and a
//! source chain. No type of a dependency is part of it, so a dependency's new major version does
//! not force one of this crate.

use std::{error::Error as StdError, fmt, io};

pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`]; queried through its predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The caller's input is invalid, regardless of the state of the machine.
    InvalidInput,
    /// The process no longer exists.
    Gone,
    /// The kernel, or a trust rule, forbids the action.
    Denied,
    /// The resource is held elsewhere; trying again may help.
    Busy,
    /// The state cannot be determined from here; nothing was done.
    Unknown,
    /// The task is already running.
    AlreadyRunning,
    /// The ledger has no such task.
    NotFound,
    /// The ledger was written by a newer version.
    Newer,
    /// The file is not a ledger, or is damaged.
    NotALedger,
    /// The tracker was shut down, or is used in a forked child.
    Closed,
    /// The program could not be started; [`Error::raw_os_error`] returns the errno.
    NotStarted,
    /// The machine lacks a required feature.
    Unsupported,
    /// Anything else the system or SQLite reported.
    Other,
}

/// An error, described in one line that names its subject. The cause is its
/// [`source`](std::error::Error::source): `Display` is without it, while `Debug`, and so a `main`
/// that returns the error, prints both.
///
/// ```
/// let error = procledger::Tracker::builder("/no/such/folder/ledger.db").open().unwrap_err();
/// assert!(error.to_string().contains("/no/such/folder"));
/// ```
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    errno: Option<i32>,
    #[source]
    source: Option<Source>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None, source: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInput, message)
    }

    /// Creates an error of the system, with the predicate that its errno implies.
    pub(crate) fn os(message: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::ESRCH | libc::ECHILD) => Kind::Gone,
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => Kind::Denied,
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EBUSY) => {
                Kind::Busy
            }
            Some(libc::ENOSYS) => Kind::Unsupported,
            _ => Kind::Other,
        };
        Self {
            kind,
            message: message.into(),
            errno: source.raw_os_error(),
            source: Some(source.into()),
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn with_errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self.source = Some(io::Error::from_raw_os_error(errno).into());
        self
    }

    /// Returns the same error for another caller, with its cause in the message.
    pub(crate) fn with_context(&self, to: &str) -> Self {
        let cause = self.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        let message = format!("{to}: {}{cause}", self.message);
        Self { kind: self.kind, message, errno: self.errno, source: None }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether the input is invalid: an empty task id, pid 0, an unknown unit.
    pub fn is_invalid_input(&self) -> bool {
        self.kind == Kind::InvalidInput
    }

    /// Returns whether the process no longer exists.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }

    /// Returns whether a permission is missing, or a trust rule forbids the action.
    pub fn is_denied(&self) -> bool {
        self.kind == Kind::Denied
    }

    /// Returns whether the resource is held elsewhere for now; trying again may help.
    pub fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    /// Returns whether the state could not be determined; nothing was done.
    pub fn is_unknown(&self) -> bool {
        self.kind == Kind::Unknown
    }

    /// Returns whether the task is already running, or still exists as a survivor.
    pub fn is_already_running(&self) -> bool {
        self.kind == Kind::AlreadyRunning
    }

    /// Returns whether the ledger has no such task.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Returns whether the ledger was written by a newer version of this crate.
    pub fn is_newer(&self) -> bool {
        self.kind == Kind::Newer
    }

    /// Returns whether the file is not a ledger, or is damaged.
    pub fn is_not_a_ledger(&self) -> bool {
        self.kind == Kind::NotALedger
    }

    /// Returns whether the tracker was shut down, or is used in a forked child of its process.
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// Returns whether the program could not be started; [`raw_os_error`](Self::raw_os_error)
    /// returns the reason.
    pub fn is_not_started(&self) -> bool {
        self.kind == Kind::NotStarted
    }

    /// Returns whether the kernel or the file system lacks a required feature.
    pub fn is_unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }

    /// Returns the errno of the cause, if a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.errno
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
