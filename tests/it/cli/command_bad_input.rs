//! Bad input to every subcommand: one clear line on stderr, the documented exit code, no panic, and nothing changed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::{
    cli::command::{Running, answer, bare, bytes_of, on_ledger, run},
    support::Place,
};

/// Every subcommand that opens a ledger, in its simplest form.
const ON_A_LEDGER: [&[&str]; 15] = [
    &["run", "--task", "t", "--", "true"],
    &["ps"],
    &["ps", "--all", "--json"],
    &["tree"],
    &["kill", "t"],
    &["forget", "t"],
    &["health"],
    &["reap"],
    &["reap", "--dry-run"],
    &["watch"],
    &["report"],
    &["report", "--format", "html"],
    &["export"],
    &["import", "/dev/null"],
    &["prune", "--older-than", "1h"],
];

/// Each subcommand refuses this ledger, naming `named`, and leaves the folder unchanged.
#[track_caller]
fn refused(place: &Place, ledger: &Path, named: &str) {
    let before = bytes_of(place.path());
    for args in ON_A_LEDGER {
        let code = if args[0] == "run" { 125 } else { 1 };
        let answer = answer(on_ledger(place, ledger).args(args)).expect(code);
        let line = answer.complaint();
        assert!(line.contains(named), "{args:?}: {line}");
        assert!(before == bytes_of(place.path()), "{args:?} changed the disk");
    }
    // `doctor` prints the diagnosis on stdout.
    let doctor = answer(on_ledger(place, ledger).arg("doctor"));
    assert!(doctor.out.contains(named) && doctor.err.is_empty(), "{doctor:?}");
    assert!(before == bytes_of(place.path()), "doctor changed the disk");
}

#[test]
fn a_folder_as_ledger() {
    let place = Place::new();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    refused(&place, &folder, "is a folder");
}

#[test]
fn a_text_file_as_ledger() {
    let place = Place::new();
    let text = place.path().join("text");
    fs::write(&text, "Dear ledger, this is a letter and no database.\n".repeat(200))
        .expect("a file");
    refused(&place, &text, "text");
}

#[test]
fn another_programs_database_as_ledger() {
    let place = Place::new();
    let other = place.path().join("other.db");
    let database = rusqlite::Connection::open(&other).expect("a database");
    database
        .execute_batch("CREATE TABLE process (id INTEGER PRIMARY KEY, name TEXT)")
        .expect("a table");
    drop(database);
    fs::set_permissions(&other, Permissions::from_mode(0o600)).expect("a mode");
    refused(&place, &other, "other.db");
}

#[test]
fn a_newer_ledger() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    ledger.pragma_update(None, "user_version", 99).expect("a version");
    drop(ledger);
    refused(&place, &place.ledger(), "version 99");
}

#[test]
fn a_folder_that_the_group_can_write() {
    let place = Place::new();
    let folder = place.path().join("shared");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("a mode");
    let ledger = folder.join("ledger.db");
    answer(on_ledger(&place, &ledger).args(["run", "--task", "t", "--", "true"])).expect(0);
    fs::set_permissions(&folder, Permissions::from_mode(0o775)).expect("a mode");
    let before = bytes_of(place.path());
    for args in [&["run", "--task", "t", "--", "true"][..], &["reap"], &["kill", "t"], &["watch"]] {
        let answer = answer(on_ledger(&place, &ledger).args(args));
        assert!(matches!(answer.code(), 1 | 125), "{answer:?}");
        assert!(answer.complaint().contains("chmod go-w"), "{answer:?}");
        assert!(before == bytes_of(place.path()), "{args:?} changed the disk");
    }
}

#[test]
fn a_missing_ledger_is_not_created_by_looking() {
    let place = Place::new();
    for args in [
        &["ps"][..],
        &["tree", "t"],
        &["kill", "t"],
        &["forget", "t"],
        &["health"],
        &["reap", "--dry-run"],
        &["report"],
        &["export"],
        &["prune", "--older-than", "1h"],
    ] {
        let answer = run(&place, args).expect(1);
        assert!(answer.complaint().contains("no ledger at"), "{args:?}: {answer:?}");
        assert!(bytes_of(place.path()).is_empty(), "{args:?}");
    }
}

#[test]
fn a_missing_folder() {
    let place = Place::new();
    let ledger = place.path().join("missing/ledger.db");
    for args in ON_A_LEDGER {
        let code = if args[0] == "run" { 125 } else { 1 };
        let answer = answer(on_ledger(&place, &ledger).args(args)).expect(code);
        assert!(answer.complaint().contains("missing"), "{args:?}: {answer:?}");
        assert!(bytes_of(place.path()).is_empty(), "{args:?}");
    }
}

#[test]
fn values_that_cannot_be_are_usage_errors() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let before = bytes_of(place.path());
    let long = "x".repeat(1025);
    for (args, part) in [
        (&["run", "--task", "t", "--max-runtime", "10", "--", "true"][..], "no unit"),
        (&["run", "--task", "t", "--max-runtime", "0s", "--", "true"], "zero"),
        (&["run", "--task", "t", "--grace", "soon", "--", "true"], "500ms"),
        (&["run", "--task", "t", "--max-rss", "1.5G", "--", "true"], "fraction"),
        (&["run", "--task", "t", "--max-rss", "-1", "--", "true"], "'-1'"),
        (&["run", "--task", "", "--", "true"], "empty"),
        (&["run", "--task", &long, "--", "true"], "1025 bytes"),
        (&["run", "--task", "t", "--", ""], "empty"),
        (&["run", "--task", "t"], "required"),
        (&["run", "--", "true"], "--task"),
        (&["kill"], "required"),
        (&["kill", ""], "empty"),
        (&["kill", "t", "--all"], "cannot be used with"),
        (&["forget"], "required"),
        (&["ps", "--limit", "5"], "--all"),
        (&["ps", "--all", "--limit", "0"], "0"),
        (&["ps", "--watch", "--json"], "cannot be used with"),
        (&["ps", "--watch", "--all"], "cannot be used with"),
        (&["ps", "--watch", "--interval", "2"], "no unit"),
        (&["ps", "--watch", "--interval", "1ms"], "100ms"),
        (&["ps", "--interval", "2s"], "--watch"),
        (&["ps", "--watch"], "terminal"),
        (&["tree", ""], "empty"),
        (&["tree", &long], "1025 bytes"),
        (&["reap", "--min-age", "5"], "no unit"),
        (&["reap", "--orphan-name", "/usr/bin/x"], "without a slash"),
        (&["reap", "--orphan-name", ""], "orphan-name"),
        (&["report", "--since", "yesterday"], "30s"),
        (&["report", "--by", "colour"], "day"),
        (&["report", "--format", "xml"], "csv"),
        (&["prune"], "--older-than"),
        (&["prune", "--older-than", "forever"], "30s"),
        (&["import"], "required"),
        (&["completions", "tcl"], "bash"),
        (&["ps", "--profile", "nobody"], "ecosystem-manager"),
        (&["no-such-command"], "unrecognized"),
        (&[], "Usage"),
    ] {
        let answer = run(&place, args).expect(2);
        assert_eq!(answer.out, "", "{args:?}");
        assert!(answer.err.contains(part), "{args:?}: {part:?} is not in {}", answer.err);
        assert!(before == bytes_of(place.path()), "{args:?} changed the disk");
    }
}

#[test]
fn unknown_tasks_are_refused() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    for verb in ["kill", "forget", "tree"] {
        let answer = run(&place, &[verb, "nobody"]).expect(1);
        assert!(answer.complaint().contains("no task nobody"), "{answer:?}");
        assert!(answer.err.contains("procledger ps"), "{answer:?}");
    }
}

#[test]
fn output_that_has_no_place_to_go() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let before = bytes_of(place.path());
    let nowhere = place.path().join("missing/file");
    let missing = place.path().join("missing");
    for (target, named) in [(nowhere.as_path(), missing.as_path()), (place.path(), place.path())] {
        let target = target.to_str().expect("UTF-8");
        let named = named.to_str().expect("UTF-8");
        for args in [
            &["report", "-o", target][..],
            &["export", target],
            &["ps", "--log-file", target],
            &["report", "--format", "html", "-o", target],
        ] {
            let answer = run(&place, args).expect(1);
            assert!(answer.complaint().contains(named), "{args:?}: {answer:?}");
            assert!(before == bytes_of(place.path()), "{args:?} changed the disk");
        }
    }
}

/// A report that did not fit on the disk used to destroy the old one.
#[test]
fn a_report_that_cannot_be_written_takes_no_old_one_with_it() {
    let place = Place::new();
    // While another process has the ledger open its reader writes nothing.
    let _running = Running::start(&place, "t", &[], "echo up; exec sleep 300");
    let file = place.path().join("report.html");
    fs::write(&file, "the old one").expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("a mode");
    let link = place.path().join("link.html");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let path_of = |file: &Path| file.to_str().expect("UTF-8").to_owned();
    // A limit of 2 KiB to a file stands for a full disk.
    let mut limited = std::process::Command::new("sh");
    crate::cli::command::clean(&mut limited, &place);
    let script =
        "ulimit -f 4; trap '' XFSZ; exec \"$0\" --db \"$1\" report --format html -o \"$2\"";
    limited.args(["-c", script, crate::cli::command::PROCLEDGER]);
    let answer = answer(limited.arg(place.ledger()).arg(&file)).expect(1);
    assert!(answer.complaint().contains("report.html"), "{answer:?}");
    assert_eq!(fs::read_to_string(&file).expect("a file"), "the old one");
    let entries = || fs::read_dir(place.path()).expect("a folder").count();
    let before = entries();
    run(&place, &["report", "--format", "html", "-o", &path_of(&link)]).expect(0);
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink(), "it is followed");
    assert!(fs::read_to_string(&file).expect("a file").starts_with("<!doctype html>"));
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o640);
    run(&place, &["report", "-o", "/dev/null"]).expect(0);
    assert_eq!(entries(), before, "nothing is left beside it");
}

#[test]
fn an_import_of_an_untrusted_file_or_a_folder_is_refused() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let open = place.path().join("open.json");
    fs::write(&open, "[]").expect("a file");
    fs::set_permissions(&open, Permissions::from_mode(0o666)).expect("a mode");
    for file in [open.as_path(), place.path()] {
        let answer = run(&place, &["import", file.to_str().expect("UTF-8")]).expect(1);
        assert!(answer.err.contains("is not read"), "{answer:?}");
        assert!(file.exists());
    }
}

#[test]
fn an_invalid_log_filter_is_refused() {
    let place = Place::new();
    let answer = answer(bare(&place).arg("demo").env("PROCLEDGER_LOG", "a=b=c")).expect(2);
    assert!(answer.complaint().contains("PROCLEDGER_LOG"), "{answer:?}");
}

/// A mistyped file name was imported "successfully", without any message.
#[test]
fn an_import_of_a_file_that_is_not_there_said_nothing() {
    let place = Place::new();
    let file = place.path().join("missing.json");
    let answer = run(&place, &["import", file.to_str().expect("UTF-8")]).expect(1);
    assert!(answer.complaint().contains("missing.json"), "{answer:?}");
}
