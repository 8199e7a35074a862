//! An output that is named after the ledger itself, or after a file beside it.

use std::{fs, os::unix::fs::symlink};

use crate::support::Place;

#[test]
fn an_export_a_report_or_a_log_replaced_the_ledger() {
    let place = Place::new();
    let run = place.procledger(&["run", "--task", "kept", "--", "true"]);
    assert!(run.status.success(), "{run:?}");
    let ledger = place.ledger();
    symlink(&ledger, place.path().join("link")).expect("linked");
    fs::hard_link(&ledger, place.path().join("hard")).expect("linked");
    let before = fs::read(&ledger).expect("read");
    for name in ["ledger.db", "link", "hard", "ledger.db-wal", "ledger.db-setup.lock"] {
        let file = place.path().join(name);
        let file = file.to_str().expect("text");
        for (args, code) in [
            (&["export", file][..], 1),
            (&["report", "-o", file], 1),
            (&["--log-file", file, "-vv", "ps"], 1),
            (&["--export", file, "reap"], 1),
            (&["--export", file, "run", "--task", "t", "--", "true"], 125),
        ] {
            let output = place.procledger(args);
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
            assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
            assert!(err.contains("belongs to the ledger"), "{args:?}: {err}");
        }
    }
    assert!(fs::read(&ledger).expect("read") == before);
    assert_eq!(place.sqlite3("SELECT task_id FROM process"), "kept");
    // Another file in the same folder does not belong to the ledger.
    let beside = place.path().join("ledger.db-running.json");
    let exported = place.procledger(&["export", beside.to_str().expect("text")]);
    assert!(exported.status.success() && beside.exists(), "{exported:?}");
}

#[test]
fn the_export_of_a_host_replaced_its_ledger() {
    let place = Place::new();
    for export in [place.ledger(), place.path().join("ledger.db-wal")] {
        let opened = procledger::Tracker::builder(place.ledger()).export(&export).open();
        let error = opened.expect_err("refused");
        assert!(error.is_invalid_input(), "{error:?}");
        assert!(!export.exists(), "nothing is made where it is refused");
    }
}
