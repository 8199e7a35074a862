//! A receiver gets each row of a ledger once, batch by batch, whatever happens between two batches.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{fixture::*, history::leaked};
use crate::{
    model::{Batch, LeakKind, LostRow, Millis, OpenProcess, Outcome, Position, ProcessId, State},
    store::{
        Unshipped, stream,
        stream::{BATCH as ROOM, BatchLimit},
    },
};

/// A minimal receiver: it keeps what it gets, and corrects nothing.
#[derive(Default)]
struct Receiver {
    position: Position,
    live: BTreeMap<i64, OpenProcess>,
    ended: BTreeSet<(i64, u32)>,
    lost: BTreeSet<(i64, u32)>,
    leaks: BTreeMap<i64, Outcome>,
    gap: u64,
    leak_gap: u64,
}

impl Receiver {
    fn follow(&mut self, f: &Fixture, room: BatchLimit) -> Batch {
        let batch = f.store.next_batch(&self.position, room).expect("read");
        for LostRow { id, print } in &batch.lost {
            assert_eq!(self.live.remove(id).map(|it| it.print), Some(*print), "was it there?");
            self.lost.insert((*id, *print));
        }
        for process in &batch.ended {
            self.live.remove(&process.row.id.0);
            let is_new = self.ended.insert((process.row.id.0, process.print));
            assert!(is_new, "{:?} ended twice", process.row.id);
        }
        for process in &batch.live {
            self.live.insert(process.row.id.0, OpenProcess::of(&process.row));
        }
        for leak in &batch.leaks {
            self.leaks.insert(leak.id, leak.row.outcome);
        }
        for LostRow { id, .. } in &batch.lost_leaks {
            self.leaks.remove(id).expect("it was there");
        }
        self.gap += batch.gap;
        self.leak_gap += batch.leak_gap;
        self.position = std::mem::take(&mut self.position).after(&batch);
        assert_eq!(self.position.open, self.live);
        batch
    }

    fn catch_up(&mut self, f: &Fixture, room: BatchLimit) {
        while self.follow(f, room).more {}
        assert!(self.follow(f, ROOM).is_empty());
    }

    /// Compares with the ledger's own rows.
    fn check(&self, f: &Fixture) {
        let live = f.store.live().expect("read");
        let live: BTreeMap<_, _> =
            live.iter().map(|row| (row.id.0, OpenProcess::of(row))).collect();
        assert_eq!(self.live, live);
        let ended = f.store.history(None, None, None).expect("read");
        for row in ended {
            let key = (row.id.0, OpenProcess::of(&row).print);
            assert!(self.ended.contains(&key), "{key:?}");
        }
        let leaks = f.store.leaks(None, None, None).expect("read");
        assert!(leaks.len() <= self.leaks.len());
        let survived = |outcome: &&Outcome| **outcome == Outcome::Survived;
        assert_eq!(
            self.leaks.values().filter(survived).count(),
            leaks.iter().filter(|leak| leak.outcome == Outcome::Survived).count()
        );
    }
}

fn end(f: &Fixture, id: ProcessId) {
    f.put(id, State::Ended, None);
}

/// Deletes all history except the last rows, as for a ledger that is too large.
fn prune(f: &Fixture) {
    let mut connection = f.store.maintenance_connection().expect("opens");
    while connection.prune(Millis(i64::MAX), 100, Unshipped::Delete).expect("committed").done > 0 {}
}

#[test]
fn a_process_is_sent_when_it_is_new_has_changed_or_has_ended() {
    let f = Fixture::new();
    let mut receiver = Receiver::default();
    let [stays, ends] = [10, 11].map(|pid| f.row(f.me, pid, State::Running));
    let ended = f.row(f.me, 12, State::Ended);
    let ids = |batch: &Batch| {
        let of = |list: &[crate::model::StreamProcess]| {
            list.iter().map(|it| it.row.id).collect::<Vec<_>>()
        };
        (of(&batch.live), of(&batch.ended))
    };
    assert_eq!(ids(&receiver.follow(&f, ROOM)), (vec![stays, ends], vec![ended]));
    assert!(receiver.follow(&f, ROOM).is_empty());
    end(&f, ends);
    f.sql("UPDATE process SET peak_rss_bytes = 7 WHERE id = ?1", [stays.0]);
    assert_eq!(ids(&receiver.follow(&f, ROOM)), (vec![stays], vec![ends]));
    f.put(stays, State::Survived, None);
    assert_eq!(ids(&receiver.follow(&f, ROOM)), (vec![stays], vec![]));
    assert!(receiver.follow(&f, ROOM).is_empty());
    receiver.check(&f);
}

#[test]
fn a_survivor_is_sent_again_once_it_has_ended() {
    let f = Fixture::new();
    let mut receiver = Receiver::default();
    let id = f.row(f.me, 10, State::Running);
    leaked(&f, id, LeakKind::Stray, Outcome::Survived, 100);
    receiver.catch_up(&f, ROOM);
    assert_eq!(receiver.leaks[&1], Outcome::Survived);
    leaked(&f, id, LeakKind::Stray, Outcome::Kill, 200);
    let batch = receiver.follow(&f, ROOM);
    assert_eq!((batch.leaks.len(), batch.ended.len()), (1, 1));
    assert_eq!(receiver.leaks[&1], Outcome::Kill);
    assert!(receiver.follow(&f, ROOM).is_empty());
}

/// Numbers are dense, so rows that were pruned before they were shipped can be counted.
#[test]
fn gap_is_counted() {
    let f = Fixture::new();
    let mut receiver = Receiver::default();
    for pid in 10..14 {
        f.row(f.me, pid, State::Ended);
    }
    prune(&f);
    receiver.catch_up(&f, ROOM);
    assert_eq!((receiver.gap, receiver.ended.len()), (0, 1), "there was no receiver before");
    for pid in 20..30 {
        let id = f.row(f.me, pid, State::Running);
        leaked(&f, id, LeakKind::Stray, Outcome::Term, 100);
    }
    let kept = f.row(f.me, 30, State::Running);
    for pid in 31..35 {
        f.row(f.me, pid, State::Ended);
    }
    prune(&f);
    // Kept are the process of the last leak, running processes, and the last process.
    receiver.catch_up(&f, BatchLimit { rows: 1, ..ROOM });
    assert_eq!((receiver.gap, receiver.leak_gap), (9 + 3, 9));
    assert!(receiver.live.contains_key(&kept.0));
    receiver.check(&f);
    // A receiver that is set back does not count a row twice.
    let start = Position { counted: receiver.position.counted, ..Position::default() };
    assert_eq!(f.store.next_batch(&start, ROOM).expect("read").gap, 0);
}

/// The ledger is replaced by a backup, which lacks rows and assigns their numbers to others.
#[test]
fn a_row_of_a_ledger_that_was_restored_is_not_taken_for_another() {
    let f = Fixture::new();
    let mut receiver = Receiver::default();
    let [_, other, gone] = [10, 11, 12].map(|pid| f.row(f.me, pid, State::Running));
    receiver.catch_up(&f, ROOM);
    f.sql("UPDATE process SET start_tick = 7 WHERE id = ?1", [other.0]);
    f.sql("DELETE FROM process WHERE id = ?1", [gone.0]);
    let batch = receiver.follow(&f, ROOM);
    let lost: Vec<_> = batch.lost.iter().map(|row| row.id).collect();
    assert_eq!(lost, [other.0, gone.0]);
    assert_eq!(batch.live.len(), 1, "the other process of that number");
    receiver.check(&f);
}

#[test]
fn a_receiver_that_is_set_back_gets_each_row_once() {
    let f = Fixture::new();
    let mut receiver = Receiver::default();
    let ids = [10, 11].map(|pid| f.row(f.me, pid, State::Running));
    leaked(&f, ids[0], LeakKind::Stray, Outcome::Survived, 100);
    leaked(&f, ids[1], LeakKind::Stray, Outcome::Survived, 100);
    receiver.catch_up(&f, ROOM);
    leaked(&f, ids[1], LeakKind::Stray, Outcome::Kill, 200);
    let Position { open, open_leaks, .. } = receiver.position.clone();
    let start = Position { open, open_leaks, ..Position::default() };
    let batch = f.store.next_batch(&start, ROOM).expect("read");
    let leaks: Vec<_> = batch.leaks.iter().map(|leak| leak.id).collect();
    assert_eq!(leaks, [1, 2]);
    assert_eq!((batch.live.len(), batch.ended.len()), (1, 1));
}

#[test]
fn the_rows_of_the_original_are_not_those_of_a_copy() {
    let f = Fixture::new();
    let [below, above] = [10, 11].map(|pid| f.row(f.me, pid, State::Running));
    f.sql("UPDATE ledger SET process_floor = ?1", [below.0]);
    let (uuid, position) = f.store.stream_start().expect("read");
    assert_eq!(Some(uuid), f.store.uuid().expect("read"));
    let mut receiver = Receiver { position, ..Receiver::default() };
    receiver.catch_up(&f, ROOM);
    end(&f, below);
    receiver.catch_up(&f, ROOM);
    assert_eq!(receiver.live.keys().collect::<Vec<_>>(), [&above.0]);
    assert_eq!((receiver.ended.len(), receiver.gap), (0, 0));
}

#[test]
fn a_batch_is_no_larger_than_its_room() {
    let f = Fixture::new();
    for pid in 10..20 {
        f.row(f.me, pid, State::Running);
    }
    let sizes = |room: BatchLimit| {
        let mut receiver = Receiver::default();
        let mut sizes = Vec::new();
        loop {
            let batch = receiver.follow(&f, room);
            sizes.push(batch.rows());
            if !batch.more {
                return sizes;
            }
        }
    };
    assert_eq!(sizes(BatchLimit { rows: 4, ..ROOM }), [4, 4, 2]);
    assert_eq!(
        sizes(BatchLimit { bytes: 1, ..ROOM }),
        [1; 10],
        "a row that is too large is sent alone"
    );
}

#[test]
fn a_batch_reads_no_history_that_was_shipped() {
    let f = Fixture::new();
    let schema = f.store.schema();
    for (sql, index) in [
        (stream::fresh(schema), "SEARCH p USING INTEGER PRIMARY KEY (rowid>?)"),
        (stream::live(schema), "SCAN p USING INDEX process_live_owner"),
    ] {
        let lines = super::plans::plan(&f, &sql);
        assert!(lines.iter().any(|line| line.starts_with(index)), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("TEMP B-TREE")), "{lines:?}");
    }
}

/// A change to a ledger between two batches.
#[derive(Clone, Copy, Debug)]
enum Change {
    Start,
    Survive(usize),
    Observe(usize),
    Leak(usize),
    End(usize),
    Prune,
    Ship(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => Just(Change::Start),
        1 => (0_usize..8).prop_map(Change::Survive),
        1 => (0_usize..8).prop_map(Change::Observe),
        1 => (0_usize..8).prop_map(Change::Leak),
        3 => (0_usize..8).prop_map(Change::End),
        1 => Just(Change::Prune),
        2 => (1_usize..5).prop_map(Change::Ship),
    ];
    proptest::collection::vec(change, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every row is received once, unless it was pruned unshipped and counted.
    #[test]
    fn a_receiver_has_what_the_ledger_had(changes in changes()) {
        let f = Fixture::new();
        let mut receiver = Receiver::default();
        receiver.follow(&f, ROOM);
        let mut started = 0;
        for change in changes {
            let live = f.store.live().expect("read");
            let chosen = |n: usize| (!live.is_empty()).then(|| live[n % live.len()].id);
            match change {
                Change::Start => {
                    started += 1;
                    f.row(f.me, 10 + started, State::Running);
                }
                Change::Survive(n) => chosen(n).into_iter().for_each(|id| f.put(id, State::Survived, None)),
                Change::Observe(n) => chosen(n).into_iter().for_each(|id| {
                    f.sql("UPDATE process SET cpu_ms = coalesce(cpu_ms, 0) + 1 WHERE id = ?1", [id.0]);
                }),
                Change::Leak(n) => chosen(n).into_iter().for_each(|id| {
                    leaked(&f, id, LeakKind::Stray, Outcome::Survived, 100);
                }),
                Change::End(n) => chosen(n).into_iter().for_each(|id| {
                    let end = crate::model::End { at: Millis(100).into(), ..super::fixture::end(crate::model::EndReason::Gone) };
                    let from = f.state(id);
                    f.store.end(id, from, end, None).expect("committed");
                }),
                Change::Prune => prune(&f),
                Change::Ship(rows) => drop(receiver.follow(&f, BatchLimit { rows, ..ROOM })),
            }
        }
        receiver.catch_up(&f, BatchLimit { rows: 3, ..ROOM });
        receiver.check(&f);
        let received = receiver.live.len() + receiver.ended.len() + receiver.lost.len();
        prop_assert_eq!(received as u64 + receiver.gap, started.cast_unsigned());
    }
}
