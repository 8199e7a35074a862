//! The crate's one error type.
//!
//! [`Error`] is opaque: a message that names its subject, predicates that say what kind of trouble it is, and a source
//! chain. No type of a dependency is part of it, so a dependency's new major version is not ours.

use std::{error::Error as StdError, fmt, io};

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of trouble an [`Error`] is; asked through its predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The caller's input cannot be right, whatever the state of the machine.
    InvalidInput,
    /// The process named is not there any more.
    Gone,
    /// The kernel, or a trust rule, does not let us.
    Denied,
    /// Somebody else holds it; trying again may help.
    Busy,
    /// It cannot be told from here; nothing was done.
    Unknown,
    /// The task already runs.
    AlreadyRunning,
    /// The ledger knows no such task.
    NotFound,
    /// The ledger was written by a newer version.
    Newer,
    /// The file is not a ledger, or is damaged.
    NotALedger,
    /// The tracker was shut down, or is used in a forked child.
    Closed,
    /// The program could not be started; [`Error::raw_os_error`] has the errno.
    NotStarted,
    /// The machine lacks something that is needed.
    Unsupported,
    /// Anything else the system or SQLite reported.
    Other,
}

/// What went wrong, in one line that names the subject.
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

    /// An error of the system, with the predicate that its errno implies.
    pub(crate) fn os(message: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::ESRCH | libc::ECHILD) => Kind::Gone,
            Some(libc::EPERM | libc::EACCES) => Kind::Denied,
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

    /// The same trouble, told to another caller, with its cause in the message.
    pub(crate) fn told_again(&self, to: &str) -> Self {
        let cause = self.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        let message = format!("{to}: {}{cause}", self.message);
        Self { kind: self.kind, message, errno: self.errno, source: None }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The input cannot be right: an empty task id, pid 0, an unknown unit.
    pub fn is_invalid_input(&self) -> bool {
        self.kind == Kind::InvalidInput
    }

    /// The process is not there any more.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }

    /// Permission, or a trust rule, is missing.
    pub fn is_denied(&self) -> bool {
        self.kind == Kind::Denied
    }

    /// Somebody else holds it for now; trying again may help.
    pub fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    /// It could not be told, and nothing was done.
    pub fn is_unknown(&self) -> bool {
        self.kind == Kind::Unknown
    }

    /// The task already runs, or is still there as a survivor.
    pub fn is_already_running(&self) -> bool {
        self.kind == Kind::AlreadyRunning
    }

    /// The ledger knows no such task.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// The ledger was written by a newer version of this crate.
    pub fn is_newer(&self) -> bool {
        self.kind == Kind::Newer
    }

    /// The file is not a ledger, or is damaged.
    pub fn is_not_a_ledger(&self) -> bool {
        self.kind == Kind::NotALedger
    }

    /// The tracker was shut down, or is used in a forked child of its process.
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// The program could not be started; [`raw_os_error`](Self::raw_os_error) says why.
    pub fn is_not_started(&self) -> bool {
        self.kind == Kind::NotStarted
    }

    /// The kernel or the file system lacks something that is needed.
    pub fn is_unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }

    /// The errno behind it, where a system call failed.
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
