//! A ledger that an older version wrote is brought up to date. `tests/fixtures/ledger-1.db` is what version 1 of the schema
//! left: rows of every kind, of another machine, so that nothing here is ever theirs.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rusqlite::{Connection, OpenFlags, types::Value};

use crate::{
    command::run,
    support::{Place, sqlite3},
};

const TABLES: [&str; 4] = ["instance", "process", "pass", "leak"];

/// The fixture as the ledger of a place.
fn version_1() -> Place {
    let place = Place::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger-1.db");
    fs::copy(fixture, place.ledger()).expect("copied");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(place.ledger(), private).expect("its mode");
    place
}

/// Everything in the fixture's columns, up to the last row that the fixture has.
fn rows(ledger: &Path, columns: &[(String, String)], last: &[i64]) -> Vec<Vec<Value>> {
    let ledger = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let ledger = ledger.expect("a ledger");
    columns
        .iter()
        .zip(last)
        .flat_map(|((table, columns), last)| {
            let sql = format!("SELECT {columns} FROM {table} WHERE id <= {last} ORDER BY id");
            let mut query = ledger.prepare(&sql).expect("a query");
            let width = query.column_count();
            let rows = query.query_map([], |row| (0..width).map(|at| row.get(at)).collect());
            rows.expect("runs").map(|row| row.expect("a row")).collect::<Vec<_>>()
        })
        .collect()
}

fn shape(ledger: &Path) -> (Vec<(String, String)>, Vec<i64>) {
    TABLES
        .map(|table| {
            let columns = sqlite3(
                ledger,
                &format!("SELECT group_concat(name) FROM pragma_table_info('{table}')"),
            );
            let last = sqlite3(ledger, &format!("SELECT max(id) FROM {table}"));
            ((table.to_owned(), columns), last.parse::<i64>().expect("rows"))
        })
        .into_iter()
        .unzip()
}

fn schema(ledger: &Path) -> String {
    sqlite3(ledger, "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
}

#[test]
fn a_ledger_of_version_1_keeps_every_row_and_gets_the_schema_of_a_new_one() {
    let old = version_1();
    let (columns, last) = shape(&old.ledger());
    let before = rows(&old.ledger(), &columns, &last);
    assert!(before.len() > 40, "the fixture holds rows of every kind: {}", before.len());
    assert_eq!(old.sqlite3("PRAGMA user_version"), "1");

    // Opening for writing migrates; the pass finds rows that it cannot judge, and leaves them.
    run(&old, &["health"]).expect(0);
    assert_eq!(rows(&old.ledger(), &columns, &last), before);
    assert_eq!(old.sqlite3("PRAGMA integrity_check"), "ok");
    assert_eq!(old.sqlite3("PRAGMA foreign_key_check"), "");

    let new = Place::new();
    procledger::Tracker::builder(new.ledger()).open().expect("a new ledger");
    assert_eq!(schema(&old.ledger()), schema(&new.ledger()));
    for pragma in ["user_version", "application_id", "journal_mode", "auto_vacuum"] {
        let ask = format!("PRAGMA {pragma}");
        assert_eq!(old.sqlite3(&ask), new.sqlite3(&ask), "{pragma}");
    }
    let sizes = "SELECT tbl, idx, stat FROM sqlite_stat1 ORDER BY 1, 2";
    assert_eq!(old.sqlite3(sizes), new.sqlite3(sizes));
}

#[test]
fn what_an_older_version_recorded_is_shown_by_this_one() {
    let old = version_1();
    let looked = run(&old, &["ps"]).expect(1);
    assert!(looked.complaint().contains("older version"), "a reader migrates nothing");

    run(&old, &["health"]).expect(0);
    let leaks = run(&old, &["report", "--format", "json"]).expect(0).json();
    let leaks = leaks.as_array().expect("a list").len();
    assert_eq!(leaks.to_string(), old.sqlite3("SELECT count(*) FROM leaks"));
    assert_eq!(leaks, 7);
    assert_eq!(
        old.sqlite3("SELECT task_id, state, started FROM running ORDER BY process"),
        "daemon|running|2026-01-01T00:02:00.000Z\n\
         stuck|survived|2026-01-01T00:05:10.000Z\n\
         leaving|ending|2026-01-01T00:05:20.000Z\n\
         geprüft \"quoted\" <b>|running|2026-01-01T00:05:40.000Z"
    );
    let all = run(&old, &["ps", "--all", "--json"]).expect(0).json();
    assert_eq!(all.as_array().expect("a list").len(), 14);
}
