//! The exported list, kept up to date by its changes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fixture::*;
use crate::{
    model::{
        End, EndReason, ExitStatus, ExportRow, ExportUpdate, InstanceId, Millis, ProcessId, State,
    },
    store::{Store, exported::ExportReader},
};

/// A reader's copy of the list.
struct Follower {
    reader: ExportReader,
    rows: BTreeMap<ProcessId, ExportRow>,
    /// How often it received all rows.
    complete: usize,
}

impl Follower {
    fn of(store: &Store) -> Self {
        let reader = store.export_reader().expect("follows");
        Self { reader, rows: BTreeMap::new(), complete: 0 }
    }

    /// Reads what has changed; returns the rows that were read.
    fn follow(&mut self) -> usize {
        match self.reader.update().expect("read") {
            ExportUpdate::All(rows) => {
                self.complete += 1;
                self.rows = rows.into_iter().map(|row| (row.id, row)).collect();
                self.rows.len()
            }
            ExportUpdate::Rows(rows) => {
                let read = rows.len();
                for (id, row) in rows {
                    match row {
                        Some(row) => self.rows.insert(id, row),
                        None => self.rows.remove(&id),
                    };
                }
                read
            }
        }
    }

    fn list(&self) -> Vec<ExportRow> {
        self.rows.values().cloned().collect()
    }
}

fn list(store: &Store) -> Vec<ExportRow> {
    let mut rows = store.export_rows().expect("read");
    rows.sort_by_key(|row| row.id);
    rows
}

fn exited() -> End {
    let status = ExitStatus::Exited(0);
    End {
        at: Millis(7).into(),
        status,
        core_dumped: false,
        reason: EndReason::Exited,
        because: None,
    }
}

#[test]
fn only_changed_rows_are_read_again() {
    let fixture = Fixture::new();
    let mut follower = Follower::of(&fixture.store);
    let rows: Vec<ProcessId> =
        (1..=20).map(|pid| fixture.row(fixture.me, pid, State::Running)).collect();
    assert_eq!((follower.follow(), follower.complete), (20, 1));
    assert_eq!(follower.follow(), 0);
    let new = fixture.row(fixture.me, 30, State::Running);
    assert!(fixture.store.end(rows[3], State::Running, exited(), None).expect("ended"));
    assert_eq!((follower.follow(), follower.complete), (2, 1));
    assert!(follower.rows.contains_key(&new) && !follower.rows.contains_key(&rows[3]));
    // More rows than are noted.
    (100..400).for_each(|pid| _ = fixture.row(fixture.me, pid, State::Running));
    assert_eq!((follower.follow(), follower.complete), (320, 2));
    assert_eq!(follower.list(), list(&fixture.store));
}

#[test]
fn a_change_by_another_connection_is_read() {
    let fixture = Fixture::new();
    let row = fixture.row(fixture.me, 1, State::Running);
    let mut follower = Follower::of(&fixture.store);
    follower.follow();
    let other = open(&fixture.folder.path().join("ledger.db")).expect("opens");
    assert!(other.end(row, State::Running, exited(), None).expect("ended"));
    // Not the first commit since then.
    fixture.row(fixture.me, 2, State::Running);
    follower.follow();
    assert_eq!(follower.list(), list(&fixture.store));
    assert_eq!(follower.rows.len(), 1);
}

#[test]
fn a_row_that_was_rolled_back_is_not_listed() {
    let fixture = Fixture::new();
    let mut follower = Follower::of(&fixture.store);
    follower.follow();
    let row = fixture.row(fixture.me, 1, State::Running);
    let rolled_back = fixture.store.write("test", |tx| -> rusqlite::Result<()> {
        tx.execute("UPDATE process SET task_id = 'other' WHERE id = ?1", [row.0])?;
        Err(rusqlite::Error::QueryReturnedNoRows)
    });
    rolled_back.expect_err("refused");
    follower.follow();
    assert_eq!(follower.list(), list(&fixture.store));
}

#[test]
fn all_rows_are_read_while_the_writer_is_busy() {
    let fixture = Fixture::new();
    fixture.row(fixture.me, 1, State::Running);
    let mut follower = Follower::of(&fixture.store);
    let within = fixture.store.write("test", |_| Ok(follower.follow())).expect("committed");
    assert_eq!((within, follower.complete), (1, 1));
    // The version of that data is unknown.
    follower.follow();
    assert_eq!(follower.complete, 2);
}

/// A change of the rows, by the followed store or by another one.
#[derive(Clone, Debug)]
enum Step {
    Start { by_other: bool },
    End { by_other: bool, which: usize },
    Put { which: usize, state: State },
    Prune,
    Follow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(|by_other| Step::Start { by_other }),
        3 => (any::<bool>(), any::<usize>()).prop_map(|(by_other, which)| Step::End { by_other, which }),
        1 => (any::<usize>(), prop::sample::select(&[State::Running, State::Ending, State::Survived, State::Ended]))
            .prop_map(|(which, state)| Step::Put { which, state }),
        1 => Just(Step::Prune),
        3 => Just(Step::Follow),
    ]
}

fn take(step: &Step, fixture: &Fixture, other: &(Store, InstanceId), pid: i64) {
    let rows = list(&fixture.store);
    let pick = |which: usize| (!rows.is_empty()).then(|| rows[which % rows.len()].id);
    match step {
        Step::Start { by_other: false } => _ = fixture.row(fixture.me, pid, State::Running),
        Step::Start { by_other: true } => {
            let new = process(other.1, &format!("task-{pid}"), pid);
            other.0.insert_one(&here(), &new).expect("inserted");
        }
        Step::End { by_other, which } => {
            let store = if *by_other { &other.0 } else { &fixture.store };
            if let Some(id) = pick(*which) {
                store.end(id, State::Running, exited(), None).expect("written");
            }
        }
        Step::Put { which, state } => {
            if let Some(id) = pick(*which) {
                let claimed_by = (*state == State::Ending).then_some(fixture.me);
                fixture.put(id, *state, claimed_by);
            }
        }
        Step::Prune => _ = fixture.prune(1_000, 10),
        Step::Follow => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_list_always_equals_the_ledger(steps in prop::collection::vec(step(), 1..40)) {
        let fixture = Fixture::new();
        let other = open(&fixture.folder.path().join("ledger.db")).expect("opens");
        let instance = other.add_instance(&instance("other", here(), 2)).expect("recorded");
        let other = (other, instance);
        let mut follower = Follower::of(&fixture.store);
        for (pid, step) in (10..).zip(&steps) {
            take(step, &fixture, &other, pid);
            if matches!(step, Step::Follow) {
                follower.follow();
                prop_assert_eq!(follower.list(), list(&fixture.store));
            }
        }
        follower.follow();
        prop_assert_eq!(follower.list(), list(&fixture.store));
    }
}
