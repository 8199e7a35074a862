//! Shipments: how much of a ledger was shipped to a fleet.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// How much of a ledger was shipped to the database of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shipment {
    /// Identifies the database.
    pub(crate) fleet: Uuid,
    /// Number of the last process that was shipped.
    pub(crate) process: i64,
    /// Number of the last leak that was shipped.
    pub(crate) leak: i64,
    /// When the fleet acknowledged these numbers.
    pub(crate) acked_at: SystemTime,
    /// How long unshipped history is kept without a further acknowledgement.
    pub(crate) give_up: Duration,
}
