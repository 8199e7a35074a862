//! Pruning of a ledger that is shipped to fleets.

use super::fixture::*;
use crate::{
    model::{LeakKind, Millis, Outcome, PassKind, ProcessId, State},
    store::Unshipped,
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Records up to where a fleet acknowledged this ledger, `ago` milliseconds ago.
fn ship(f: &Fixture, fleet: &str, (process, leak): (i64, i64), ago: i64) {
    f.sql(
        "INSERT OR REPLACE INTO shipment (fleet, mark, process, leak, acked_at, shipped_at, give_up_ms)
         VALUES (?1, ?1, ?2, ?3, ?4, ?4, ?5)",
        (fleet, process, leak, Millis::now().0 - ago, 30 * DAY),
    );
}

/// Adds a process that ended `ago` milliseconds ago.
fn ended(f: &Fixture, pid: i64, ago: i64) -> ProcessId {
    let id = f.row(f.me, pid, State::Ended);
    f.sql("UPDATE process SET ended_at = ?1 WHERE id = ?2", (Millis::now().0 - ago, id.0));
    id
}

fn prune(f: &Fixture, unshipped: Unshipped) -> u64 {
    let mut connection = f.store.maintenance_connection().expect("opens");
    let mut step = || connection.prune(Millis(i64::MAX), 3, unshipped).expect("committed").done;
    std::iter::from_fn(|| Some(step()).filter(|done| *done > 0)).sum()
}

fn processes(f: &Fixture) -> Vec<ProcessId> {
    let rows = f.store.history(None, None, None).expect("read");
    let mut ids: Vec<_> = rows.into_iter().map(|row| row.id).collect();
    ids.sort();
    ids
}

#[test]
fn unshipped_is_kept() {
    let f = Fixture::new();
    let ids: Vec<_> = (10..15).map(|pid| ended(&f, pid, 2 * DAY)).collect();
    let last = f.row(f.me, 20, State::Running); // the last one would stay
    ship(&f, "a", (ids[2].0, 0), 0);
    ship(&f, "b", (ids[3].0, 0), 0);
    assert_eq!(f.store.count_before(Millis(i64::MAX)).expect("counted"), 3);
    assert_eq!(prune(&f, Unshipped::Keep), 3, "what both fleets have");
    assert_eq!(processes(&f), ids[3..]);
    ship(&f, "a", (last.0, 0), 0);
    ship(&f, "b", (last.0, 0), 0);
    assert_eq!(prune(&f, Unshipped::Keep), 2);
    assert!(processes(&f).is_empty());
}

/// A process that was shipped while it ran: its number does not prove that its end was shipped.
#[test]
fn an_end_is_kept_until_it_is_older_than_the_last_acknowledgement() {
    let f = Fixture::new();
    let [before, within, after] = [(10, DAY + 2 * HOUR), (11, DAY + HOUR / 2), (12, HOUR)]
        .map(|(pid, ago)| ended(&f, pid, ago));
    let last = f.row(f.me, 20, State::Running);
    ship(&f, "a", (last.0, 0), DAY);
    assert_eq!(prune(&f, Unshipped::Keep), 1);
    assert_eq!(processes(&f), [within, after], "{before:?} was shipped with its end");
}

#[test]
fn a_process_is_kept_with_a_leak_that_was_not_shipped() {
    let f = Fixture::new();
    let ids = [10, 11, 12].map(|pid| {
        let id = f.row(f.me, pid, State::Running);
        super::history::leaked(&f, id, LeakKind::Stray, Outcome::Term, 100);
        id
    });
    let last = f.row(f.me, 20, State::Running);
    ship(&f, "a", (last.0, 1), 0);
    assert_eq!(prune(&f, Unshipped::Keep), 2, "the first, and the pass of its leak");
    assert_eq!(processes(&f), ids[1..]);
}

#[test]
fn the_passes_of_a_day_are_kept_until_the_day_is_shipped() {
    let f = Fixture::new();
    let now = Millis::now().0;
    for ago in [3 * DAY, 2 * DAY, DAY, 0] {
        f.store.record_pass(f.me, &pass(PassKind::Health, now - ago)).expect("recorded");
    }
    ship(&f, "a", (0, 0), DAY);
    assert_eq!(prune(&f, Unshipped::Keep), 1);
    assert_eq!(prune(&f, Unshipped::Delete), 2, "the newest stays");
}

#[test]
fn a_fleet_that_does_not_answer_for_too_long_is_given_up() {
    let f = Fixture::new();
    ended(&f, 10, 40 * DAY);
    f.row(f.me, 20, State::Running);
    ship(&f, "a", (0, 0), 30 * DAY - HOUR);
    assert_eq!(prune(&f, Unshipped::Keep), 0);
    ship(&f, "a", (0, 0), 30 * DAY);
    assert_eq!(prune(&f, Unshipped::Keep), 1);
}

/// The fleet is added, or reset, after the rows were picked.
#[test]
fn a_row_that_was_picked_before_a_shipment_stays() {
    let f = Fixture::new();
    ended(&f, 10, 2 * DAY);
    f.row(f.me, 20, State::Running);
    let picked = f.store.pick(Millis(i64::MAX), 10, Unshipped::Keep).expect("read");
    let picked = picked.expect("something");
    ship(&f, "a", (0, 0), 0);
    let deleted = f.store.write("test", |tx| crate::store::prune::delete(tx, &picked));
    assert_eq!(deleted.expect("committed"), 0);
}

/// The last row of each table stays, whatever a fleet has.
#[test]
fn numbers_are_never_reused() {
    let f = Fixture::new();
    for unshipped in [Unshipped::Keep, Unshipped::Delete] {
        let ids = [10, 11].map(|pid| ended(&f, pid, 2 * DAY));
        ship(&f, "a", (i64::MAX, i64::MAX), 0);
        prune(&f, unshipped);
        assert_eq!(processes(&f), ids[1..]);
        let next = ended(&f, 12, 2 * DAY);
        assert_eq!(next.0, ids[1].0 + 1);
    }
}

#[test]
fn shipments_are_listed_and_an_older_ledger_has_none() {
    let f = Fixture::new();
    assert!(f.store.shipments().expect("read").is_empty());
    let fleet = "00000000000000000000000000000007";
    ship(&f, fleet, (12, 3), DAY);
    let shipments = f.store.shipments().expect("read");
    let [shipment] = &shipments[..] else { panic!("{shipments:?}") };
    assert_eq!(shipment.fleet.as_u128(), 7);
    assert_eq!((shipment.process, shipment.leak), (12, 3));
    assert_eq!(crate::model::millis(shipment.give_up), 30 * DAY);
}
