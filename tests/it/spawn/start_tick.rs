//! The start tick in the row of a program, which is known from the clock.

use std::collections::BTreeMap;

use procledger::{ContainmentMode, Tracker};

use crate::support::{Place, start_tick};

/// Enough that the clock is compared in many parts of a tick of ten milliseconds.
const PROGRAMS: usize = 100;

#[test]
fn a_row_has_the_start_tick_that_proc_shows() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger())
        .monitor(false)
        .containment(ContainmentMode::Session)
        .open()
        .expect("a ledger");
    let spawn = |number: usize| {
        let job = place.job(&format!("tick-{number}"), "exec sleep 600");
        tracker.spawn(job).expect("spawned").pid().get()
    };
    let shown: BTreeMap<u32, u64> =
        (0..PROGRAMS).map(spawn).map(|pid| (pid, start_tick(pid).expect("it runs"))).collect();
    let rows = place.sqlite3("SELECT pid, start_tick FROM process");
    let recorded: BTreeMap<u32, u64> = rows
        .lines()
        .map(|row| row.split_once('|').expect("two columns"))
        .map(|(pid, tick)| (pid.parse().expect("a pid"), tick.parse().expect("a tick")))
        .collect();
    assert_eq!(recorded, shown);
    tracker.shutdown().expect("an orderly end");
}
