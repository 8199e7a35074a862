//! Events that a subscription reports.

use super::{LeakRecord, ProcessRecord};

/// Something that a transaction of the ledger has recorded. Returned by a
/// [`Subscription`](crate::Subscription).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LedgerEvent {
    /// A process has ended, a root or a descendant
    /// ([`ProcessSpec::root`](crate::ProcessSpec::root)); its [`Life`](crate::Life) says how and
    /// why.
    Ended(Box<ProcessRecord>),
    /// A process could not be ended, and still exists. Reported again after a later attempt that
    /// fails, if the subscription was read during that attempt.
    Survived(Box<ProcessRecord>),
    /// A leak was found. If it could not be ended at first, its later end is reported as the end of
    /// its process, not as another leak.
    Leaked(Box<LeakRecord>),
    /// This many rows were deleted before they could be read: the subscriber was slower than the
    /// retention of the history.
    Skipped(u64),
}
