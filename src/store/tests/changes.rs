//! Changes after a position in the ledger.

use super::fixture::*;
use crate::{
    model::{EndReason, LeakKind, LedgerEvent, Outcome, ProcessId, Settled, State, Verdict},
    store::Position,
};

fn end_of(id: ProcessId) -> Settled {
    settled(id, Verdict::Ended(end(EndReason::Orphan)))
}

/// Returns kind and row of each change, in order.
fn next(f: &Fixture, position: &mut Position) -> Vec<(&'static str, i64)> {
    let events = f.store.changes(position).expect("read").into_iter();
    let shown = |event| match event {
        LedgerEvent::Ended(row) => ("ended", row.id.0),
        LedgerEvent::Survived(row) => ("survived", row.id.0),
        LedgerEvent::Leaked(leak) => ("leaked", leak.process.0),
        LedgerEvent::Skipped(count) => ("skipped", count.cast_signed()),
    };
    events.map(shown).collect()
}

#[test]
fn each_change_is_reported_once_and_in_order() {
    let f = Fixture::new();
    let open = f.row(f.me, 10, State::Running);
    let before = f.row(f.me, 11, State::Ended);
    let mut position = f.store.position().expect("read");
    assert_eq!(next(&f, &mut position), [], "earlier ends are not reported");
    let fresh = f.row(f.me, 12, State::Running);
    let brief = f.row(f.me, 13, State::Ended);
    assert_eq!(next(&f, &mut position), [("ended", brief.0)]);
    f.store.claim(&[open, fresh], f.me, None, None).expect("committed");
    assert_eq!(next(&f, &mut position), [], "a claim is no end");
    let leak = leak(LeakKind::Orphan, Outcome::Term);
    assert!(f.record(f.me, Settled { leak: Some(leak), ..end_of(open) }));
    assert!(f.record(f.me, end_of(fresh)));
    let all = [("ended", open.0), ("ended", fresh.0), ("leaked", open.0)];
    assert_eq!(next(&f, &mut position), all);
    assert_eq!(next(&f, &mut position), []);
    assert!(before < fresh);
}

#[test]
fn a_survivor_is_reported_again_after_another_attempt() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Survived);
    let mut position = f.store.position().expect("read");
    assert_eq!(next(&f, &mut position), [], "it had survived before");
    for _ in 0..2 {
        f.put(id, State::Ending, Some(f.me));
        assert_eq!(next(&f, &mut position), []);
        f.put(id, State::Survived, None);
        assert_eq!(next(&f, &mut position), [("survived", id.0)]);
        assert_eq!(next(&f, &mut position), []);
    }
    f.put(id, State::Ended, None);
    assert_eq!(next(&f, &mut position), [("ended", id.0)]);
}

#[test]
fn rows_that_were_pruned_unread_are_counted() {
    let f = Fixture::new();
    let open = f.row(f.me, 10, State::Running);
    let mut position = f.store.position().expect("read");
    let fresh = [11, 12, 13].map(|pid| f.row(f.me, pid, State::Ended));
    f.put(open, State::Ended, None);
    // The last row of each table stays.
    assert_eq!(f.number("SELECT count(*) FROM process"), 4);
    f.prune(i64::MAX, 100);
    assert_eq!(f.number("SELECT count(*) FROM process"), 1);
    assert_eq!(next(&f, &mut position), [("skipped", 3), ("ended", fresh[2].0)]);
    assert_eq!(next(&f, &mut position), []);
}

#[test]
fn an_end_after_many_live_rows_is_not_missed() {
    let f = Fixture::new();
    let mut position = f.store.position().expect("read");
    let batch = (0..2_500).map(|n| process(f.me, &format!("task-{n}"), 100 + n));
    f.insert_all(batch).expect("committed");
    let last = f.row(f.me, 5_000, State::Ended);
    assert_eq!(next(&f, &mut position), [("ended", last.0)]);
}

#[test]
fn many_changes_are_reported_in_batches_and_none_twice() {
    let f = Fixture::new();
    let batch = (0..2_500).map(|n| process(f.me, &format!("task-{n}"), 100 + n));
    let open: Vec<i64> = f
        .insert_all(batch)
        .expect("committed")
        .into_iter()
        .map(|insertion| insertion.row.expect("inserted").0)
        .collect();
    let mut position = f.store.position().expect("read");
    let ended = "UPDATE process SET state = 'ended', ended_at = 5, end_reason = 'gone'";
    assert_eq!(f.sql(ended, []), 2_500);
    let mut seen = Vec::new();
    loop {
        let part = next(&f, &mut position);
        if part.is_empty() {
            break;
        }
        assert!(part.len() <= 1_000, "{}", part.len());
        seen.extend(part.into_iter().map(|(kind, id)| {
            assert_eq!(kind, "ended");
            id
        }));
    }
    assert_eq!(seen, open);
}
