//! `subscribe`: each end, survivor and leak is reported once, whichever instance has recorded it.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use procledger::{ExitStatus, LeakKind, Ledger, LedgerEvent, ProcessId, ProcessRecord, Tracker};
use tokio::{runtime::Builder, time::timeout};

use crate::{
    cli::command::{Running, run},
    support::{PATIENCE, Place, until},
};

fn tracker(place: &Place) -> Tracker {
    Tracker::builder(place.ledger()).open().expect("a ledger")
}

fn ended(event: LedgerEvent) -> ProcessRecord {
    match event {
        LedgerEvent::Ended(row) => *row,
        other => panic!("not an end: {other:?}"),
    }
}

/// Each event is an end, and comes once.
fn codes(events: impl Iterator<Item = LedgerEvent>) -> BTreeMap<ProcessId, Option<i32>> {
    let mut codes = BTreeMap::new();
    for row in events.map(ended) {
        let end = row.life.end().expect("it has ended");
        assert_eq!(codes.insert(row.id, end.status.code()), None, "{} came twice", row.id.0);
    }
    codes
}

#[test]
fn each_end_in_many_threads_is_reported_once_until_the_shutdown() {
    let place = Place::new();
    let tracker = tracker(&place);
    tracker.spawn(place.job("before", "exit 1")).expect("spawned").wait().expect("waited");
    let events = tracker.subscribe().expect("subscribed");
    let subscriber = thread::spawn(move || codes(events.map(|event| event.expect("read"))));
    let spawned: BTreeMap<ProcessId, Option<i32>> = thread::scope(|scope| {
        let spawn = |thread: i32| {
            let (tracker, place) = (&tracker, &place);
            scope.spawn(move || {
                let spawn_one = |number: i32| {
                    let job = place.job(&format!("{thread}-{number}"), &format!("exit {number}"));
                    let mut process = tracker.spawn(job).expect("spawned");
                    // Half of them are not waited for: the monitor records their ends.
                    if number % 2 == 0 {
                        process.wait().expect("waited");
                    }
                    (process.id(), Some(number))
                };
                (0..20).map(spawn_one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..3).map(spawn).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    until("all have ended", || tracker.executing_count() == 0);
    let last = tracker.spawn(place.job("last", "exec sleep 3600")).expect("spawned").id();
    let began = Instant::now();
    tracker.shutdown().expect("an orderly end");
    let mut codes = subscriber.join().expect("no panic");
    assert!(began.elapsed() < Duration::from_secs(20), "the iterator has ended with the tracker");
    assert_eq!(codes.remove(&last), Some(None), "the shutdown has ended it");
    assert_eq!(codes, spawned);
}

#[test]
fn ends_and_leaks_recorded_by_other_processes_are_reported() {
    let place = Place::new();
    let tracker = tracker(&place);
    let mut of_tracker = tracker.subscribe().expect("subscribed");
    let ledger = Ledger::open(place.ledger()).expect("a ledger");
    let mut of_ledger = ledger.subscribe().expect("subscribed");
    run(&place, &["run", "--task", "other", "--", "sh", "-c", "exit 7"]).expect(7);
    Running::start(&place, "left", &[], "echo up; exec sleep 3600").crash();
    run(&place, &["reap"]).expect(0);
    for events in [&mut of_tracker, &mut of_ledger] {
        let mut next = || {
            let event = events.next_within(PATIENCE).expect("read");
            event.expect("it was recorded before")
        };
        let row = ended(next());
        assert_eq!(row.spec.task_id.expect("a task").as_str(), "other");
        assert_eq!(row.life.end().expect("it has ended").status, ExitStatus::Exited(7));
        let orphan = ended(next());
        match next() {
            LedgerEvent::Leaked(leak) => {
                assert_eq!((leak.process, leak.kind), (orphan.id, LeakKind::Orphan));
            }
            other => panic!("not a leak: {other:?}"),
        }
        assert!(events.try_next().expect("read").is_none(), "nothing else was recorded");
    }
    tracker.shutdown().expect("an orderly end");
    assert!(of_tracker.next().is_none());
    assert!(of_ledger.next_within(Duration::ZERO).expect("read").is_none());
    assert!(tracker.subscribe().expect_err("it is closed").is_closed());
}

#[test]
fn a_wait_returns_at_its_time_limit() {
    let place = Place::new();
    let tracker = tracker(&place);
    let mut events = tracker.subscribe().expect("subscribed");
    let began = Instant::now();
    assert!(events.next_within(Duration::from_millis(50)).expect("read").is_none());
    assert!(began.elapsed() >= Duration::from_millis(50));
    // A file beside the ledger that is not part of it does not end the wait.
    std::fs::write(place.path().join("other"), "x").expect("a file");
    assert!(events.next_within(Duration::from_millis(50)).expect("read").is_none());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_dropped_future_loses_no_event() {
    let place = Place::new();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tracker = tracker(&place).into_async();
        let mut events = tracker.subscribe().await.expect("subscribed");
        let mut spawned = BTreeMap::new();
        let mut seen = Vec::new();
        for number in 0..40 {
            let job = place.job(&format!("task-{number}"), &format!("exit {number}"));
            let mut process = tracker.spawn(job).await.expect("spawned");
            spawned.insert(process.id(), Some(number));
            process.wait().await.expect("waited");
            // Cut short at a different point each time.
            let limit = Duration::from_micros(200 * u64::try_from(number % 20).expect("small"));
            if let Ok(event) = timeout(limit, events.next()).await {
                seen.push(event.expect("it is open").expect("read"));
            }
        }
        tracker.shutdown().await.expect("an orderly end");
        while let Some(event) = events.next().await {
            seen.push(event.expect("read"));
        }
        assert_eq!(codes(seen.into_iter()), spawned);
    });
}
