//! What a subscription reports.

use super::{LeakRecord, ProcessRecord};

/// Something that a transaction of the ledger has recorded. Returned by a [`Subscription`](crate::Subscription).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LedgerEvent {
    /// A process has ended, a root or a descendant ([`ProcessSpec::root`](crate::ProcessSpec::root)); its
    /// [`Life`](crate::Life) says how and why.
    Ended(Box<ProcessRecord>),
    /// A process could not be ended, and is still there. Reported again if a later attempt fails after the process was
    /// being ended once more.
    Survived(Box<ProcessRecord>),
    /// A leak was found. What becomes of one that could not be ended is not reported as another leak: its process ends.
    Leaked(Box<LeakRecord>),
    /// This many rows were deleted before they could be read: the subscriber was slower than the retention of the history.
    Skipped(u64),
}
