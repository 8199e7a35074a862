//! How far a ledger was shipped.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::{error::Result, store::Store};

/// How far a ledger was shipped to a fleet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShipmentStatus {
    /// Identifies the fleet.
    pub fleet: Uuid,
    /// When the fleet acknowledged a batch.
    pub acknowledged_at: SystemTime,
    /// What was recorded before this time has been shipped; `None` if the fleet has not caught up
    /// once.
    pub shipped_until: Option<SystemTime>,
    /// The number of processes that were added since the last batch.
    pub processes: u64,
    /// The number of leaks that were found since the last batch.
    pub leaks: u64,
    /// The error of the last attempt; `None` if it succeeded.
    pub last_error: Option<String>,
}

impl ShipmentStatus {
    /// Returns how far the fleet is behind; `None` if it has not caught up once.
    pub fn lag(&self) -> Option<Duration> {
        let until = self.shipped_until?;
        Some(SystemTime::now().duration_since(until).unwrap_or_default())
    }
}

/// Returns the error of the last attempt to ship a ledger, which no fleet may have acknowledged
/// yet; `None` if it succeeded, or if there was none.
///
/// # Errors
///
/// As [`Ledger::open`](crate::Ledger::open).
pub fn last_error(ledger: impl AsRef<Path>) -> Result<Option<String>> {
    Store::open_read_only(ledger.as_ref())?.last_ship_error()
}

/// Returns how far a ledger was shipped, by fleet.
///
/// # Errors
///
/// As [`Ledger::open`](crate::Ledger::open).
pub fn statuses(ledger: impl AsRef<Path>) -> Result<Vec<ShipmentStatus>> {
    let store = Store::open_read_only(ledger.as_ref())?;
    let last_error = store.last_ship_error()?;
    let shipments = store.shipments()?.into_iter().map(|shipment| {
        let (processes, leaks) = store.rows_behind(shipment.process, shipment.leak)?;
        Ok(ShipmentStatus {
            fleet: shipment.fleet,
            acknowledged_at: shipment.acked_at,
            shipped_until: store.shipped_until(shipment.fleet)?,
            processes,
            leaks,
            last_error: last_error.clone(),
        })
    });
    shipments.collect()
}
