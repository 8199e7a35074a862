use proptest::prelude::*;

use super::{all, entry};
use crate::{
    export::{list::EntryList, to_json},
    model::{ExportEntry, ExportRow, ExportUpdate, Millis, ProcessId},
};

fn row(started: i64, id: i64, entry: ExportEntry) -> ExportRow {
    ExportRow { started: Millis(started), id: ProcessId(id), entry }
}

#[test]
fn entries_are_in_the_order_of_their_starts_and_leave_by_their_rows() {
    let (first, second, third) = (entry("first", 1), entry("second", 2), entry("third", 3));
    let mut list = EntryList::default();
    let rows = vec![row(9, 7, third.clone()), row(5, 8, second), row(5, 4, first.clone())];
    list.apply(ExportUpdate::All(rows));
    // A row may get another start time, as by an import, and a row that is not in the list may be
    // removed.
    let moved = row(10, 4, first.clone());
    list.apply(ExportUpdate::Rows(vec![
        (ProcessId(4), Some(moved)),
        (ProcessId(8), None),
        (ProcessId(99), None),
    ]));
    assert_eq!(list.to_json(), to_json(&[third, first]));
    list.apply(ExportUpdate::All(vec![]));
    assert_eq!(list.to_json(), to_json(&[]));
}

proptest! {
    #[test]
    fn the_text_is_that_of_the_whole_list(tasks in prop::collection::vec(any::<String>(), 0..8)) {
        let entries: Vec<_> = tasks.iter().zip(1..).map(|(task, pid)| entry(task, pid)).collect();
        let mut list = EntryList::default();
        list.apply(all(entries.clone()));
        prop_assert_eq!(list.to_json(), to_json(&entries));
    }
}
