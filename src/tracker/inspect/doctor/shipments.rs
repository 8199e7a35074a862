//! Reports on shipments to fleets: one line for each fleet, and none without a fleet.

use std::time::Duration;

use super::finding::{Finding, Level, finding};
use crate::{
    error::Result,
    model::{Millis, Shipment},
    store::Store,
};

/// Age of an acknowledgement from which on it is late: a shipper sends a batch every 30 seconds by
/// default, and after an outage retries every five minutes.
const LATE: Duration = Duration::from_hours(24);

/// Reports when each fleet last acknowledged a batch of this ledger.
pub(super) fn states(store: &Store, now: Millis) -> Result<Vec<Finding>> {
    Ok(store.shipments()?.iter().map(|shipment| state(shipment, now)).collect())
}

fn state(shipment: &Shipment, now: Millis) -> Finding {
    let Shipment { fleet, process, leak, acked_at, give_up } = shipment;
    let silence = now.since(*acked_at);
    let detail = format!(
        "fleet {} has processes up to {process} and leaks up to {leak}, as acknowledged {} h ago",
        fleet.simple(),
        silence.as_secs() / 3600
    );
    let advice = "check `procledger ship` and the fleet's database; to give up this fleet, delete its row of the table \
                  `shipment`";
    if silence >= *give_up {
        let detail = format!("{detail}; what it does not have is pruned like any other history");
        finding("shipment", Level::Warning, detail, advice)
    } else if silence >= LATE {
        let detail = format!("{detail}; what it does not have is not pruned");
        finding("shipment", Level::Warning, detail, advice)
    } else {
        finding("shipment", Level::Ok, detail, "")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_shipment_that_is_a_day_old_is_a_warning() {
        const HOUR: i64 = 3_600_000;
        let shipment = Shipment {
            fleet: Uuid::from_u128(7),
            process: 12,
            leak: 3,
            acked_at: Millis(1_000).into(),
            give_up: Duration::from_hours(48),
        };
        let at = |hours| state(&shipment, Millis(1_000 + hours * HOUR));
        assert_eq!((at(-1).level, at(0).level, at(23).level), (Level::Ok, Level::Ok, Level::Ok));
        assert!(at(23).detail.ends_with("up to 12 and leaks up to 3, as acknowledged 23 h ago"));
        assert!(at(24).level == Level::Warning && at(24).detail.ends_with("is not pruned"));
        assert!(at(48).level == Level::Warning && at(48).detail.ends_with("any other history"));
    }
}
