//! A ledger whose schema contains objects that no migration created: a trigger that never ended
//! hung `run` with its signals blocked.

use std::{fs, path::Path, thread, time::Duration};

use rusqlite::Connection;

use crate::{
    cli::command::{Running, answer, bytes_of, procledger},
    support::Place,
};

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

fn change(ledger: &Path, sql: &str) {
    let connection = Connection::open(ledger).expect("a ledger");
    // What an older `sqlite3` allows.
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let _ = connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

fn a_ledger() -> Place {
    let place = Place::new();
    answer(procledger(&place).args(["run", "--task", "first", "--", "true"])).expect(0);
    place
}

#[test]
fn a_ledger_with_foreign_triggers_was_used() {
    let hostile = [
        ("watcher", format!("CREATE TRIGGER watcher AFTER INSERT ON process BEGIN {ENDLESS}; END")),
        ("on_end", format!("CREATE TRIGGER on_end AFTER UPDATE ON instance BEGIN {ENDLESS}; END")),
        // Fires nothing by itself; no version has one.
        ("mild", "CREATE TRIGGER mild AFTER INSERT ON leak BEGIN SELECT 1; END".to_owned()),
        (
            "instead",
            "CREATE TRIGGER instead INSTEAD OF INSERT ON running BEGIN SELECT 1; END".to_owned(),
        ),
        ("running", format!("DROP VIEW running; CREATE VIEW running AS {ENDLESS}")),
        ("leaks", "DROP VIEW leaks; CREATE TABLE leaks (x)".to_owned()),
        (
            "by_text",
            "CREATE INDEX by_text ON process (hex(zeroblob(1000000)) || command)".to_owned(),
        ),
        (
            "some",
            "CREATE INDEX some ON process (pid) WHERE length(hex(zeroblob(1000))) > 0".to_owned(),
        ),
        ("one_task", "CREATE UNIQUE INDEX one_task ON process (task_id)".to_owned()),
        (
            "process_task",
            "DROP INDEX process_task; CREATE INDEX process_task ON process (cwd)".to_owned(),
        ),
        (
            "notes",
            "CREATE TABLE notes (process INTEGER REFERENCES process (id) ON DELETE CASCADE)"
                .to_owned(),
        ),
        (
            "process",
            "ALTER TABLE process ADD COLUMN x TEXT GENERATED ALWAYS AS (hex(zeroblob(1000))) VIRTUAL"
                .to_owned(),
        ),
        ("pass", "ALTER TABLE pass ADD COLUMN x INTEGER CHECK (x IS NULL)".to_owned()),
        ("leak", "DROP TABLE leak".to_owned()),
        ("words", "CREATE VIRTUAL TABLE words USING fts5(text)".to_owned()),
    ];
    for (name, sql) in hostile {
        let place = a_ledger();
        change(&place.ledger(), &sql);
        let before = bytes_of(place.path());
        for (args, code) in [
            (&["run", "--task", "t", "--", "touch", "ran"][..], 125),
            (&["reap"], 1),
            (&["ps"], 1),
            (&["kill", "--all"], 1),
            (&["doctor"], 1),
        ] {
            let answer =
                answer(procledger(&place).args(args).current_dir(place.path())).expect(code);
            let said = format!("{}{}", answer.out, answer.err);
            assert!(said.contains(&format!("`{name}`")), "{sql}: {said}");
            assert!(said.contains("ledger.db"), "{sql}: {said}");
        }
        assert!(bytes_of(place.path()) == before, "{sql}: something was touched");
    }
}

#[test]
fn harmless_additions_to_the_schema_are_accepted() {
    for sql in [
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text UNIQUE); INSERT INTO notes (text) VALUES ('x')",
        "CREATE TABLE mine (x CHECK (x > 0)); CREATE INDEX mine_x ON mine (x + 1) WHERE x > 3",
        "CREATE VIEW long_ones AS SELECT * FROM running WHERE age > '1d'",
        "CREATE INDEX by_pid ON process (pid DESC, uid); CREATE INDEX by_rule ON leak (rule COLLATE NOCASE)",
        "DROP INDEX pass_started",
        "DROP VIEW passes",
        "ANALYZE",
        "VACUUM",
    ] {
        let place = a_ledger();
        change(&place.ledger(), sql);
        answer(procledger(&place).args(["run", "--task", "t", "--", "true"])).expect(0);
        for verb in ["ps", "reap", "doctor"] {
            let answer = answer(procledger(&place).arg(verb));
            assert_eq!(answer.code(), 0, "{sql}: {answer:?}");
        }
    }
}

/// The trigger was added after the check, while the program ran: its end could not be recorded, and
/// `run` never ended.
#[test]
fn a_trigger_that_was_added_later_blocked_a_run_forever() {
    let place = Place::new();
    let script = "echo up; while [ ! -e go ]; do sleep 0.05; done; exit 7";
    let args = ["run", "--task", "t", "--", "sh", "-c", script, place.marker()];
    let mut running = Running::spawn(procledger(&place).args(args).current_dir(place.path()));
    let connection = Connection::open(place.ledger()).expect("a ledger");
    let trigger = format!("CREATE TRIGGER late AFTER UPDATE ON process BEGIN {ENDLESS}; END");
    connection.execute_batch(&trigger).expect("a trigger");
    drop(connection);
    fs::write(place.path().join("go"), "").expect("a file");
    let began = std::time::Instant::now();
    let status = loop {
        if let Some(status) = running.child.try_wait().expect("a child") {
            break status;
        }
        assert!(began.elapsed() < Duration::from_mins(4), "it hangs");
        thread::sleep(Duration::from_millis(100));
    };
    println!("run ended {status:?} after {:?}", began.elapsed());
    let refused = answer(procledger(&place).arg("doctor")).expect(1);
    assert!(refused.out.contains("`late`"), "{refused:?}");
}
