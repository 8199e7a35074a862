//! Bad input to every subcommand: one clear line on stderr, the documented exit code, no panic, and
//! nothing changed.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::{
    cli::command::{Running, answer, bare, bytes_of, on_ledger, procledger, run},
    support::{Place, need, root, skipped},
};

/// Every subcommand that opens a ledger, in its simplest form.
const ON_A_LEDGER: [&[&str]; 16] = [
    &["run", "--task", "t", "--", "true"],
    &["ps"],
    &["ps", "--all", "--json"],
    &["tree"],
    &["kill", "t"],
    &["wait", "t"],
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
        let code = if ["run", "wait"].contains(&args[0]) { 125 } else { 1 };
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
fn a_folder_is_refused_as_a_ledger() {
    let place = Place::new();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    refused(&place, &folder, "is a folder");
}

#[test]
fn a_text_file_is_refused_as_a_ledger() {
    let place = Place::new();
    let text = place.path().join("text");
    fs::write(&text, "Dear ledger, this is a letter and no database.\n".repeat(200))
        .expect("a file");
    refused(&place, &text, "text");
}

#[test]
fn another_programs_database_is_refused_as_a_ledger() {
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
fn a_ledger_of_a_newer_version_is_refused() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    ledger.pragma_update(None, "user_version", 99).expect("a version");
    drop(ledger);
    refused(&place, &place.ledger(), "version 99");
}

#[test]
fn a_group_writable_folder_is_refused() {
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
fn a_missing_ledger_is_not_created_by_reading_it() {
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
fn a_missing_folder_is_refused() {
    let place = Place::new();
    let ledger = place.path().join("missing/ledger.db");
    for args in ON_A_LEDGER {
        let code = if ["run", "wait"].contains(&args[0]) { 125 } else { 1 };
        let answer = answer(on_ledger(&place, &ledger).args(args)).expect(code);
        assert!(answer.complaint().contains("missing"), "{args:?}: {answer:?}");
        assert!(bytes_of(place.path()).is_empty(), "{args:?}");
    }
}

/// The message does not advise creating the folder: a file is in its place.
#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let place = Place::new();
    let file = place.path().join("file");
    fs::write(&file, "").expect("a file");
    let ledger = file.join("ledger.db");
    let answer = answer(on_ledger(&place, &ledger).args(["run", "--", "true"])).expect(125);
    let line = answer.complaint();
    assert!(line.ends_with("file` of the ledger: Not a directory (os error 20)"), "{line}");
}

/// Wrong command lines, over all subcommands and global options, each with a part of the message.
const WRONG: [(&[&str], &str); 118] = [
    (
        &["run", "--task", "t", "--max-runtime", "10", "--", "true"],
        "'--max-runtime <D>': `10` has no unit",
    ),
    (&["run", "--task", "t", "--max-runtime", "0s", "--", "true"], "zero"),
    (
        &["run", "--task", "t", "--grace", "soon", "--", "true"],
        "'--grace <D>': `soon` is not a duration",
    ),
    (&["run", "--task", "t", "--grace", "9999years", "--", "true"], "longer than 1000 years"),
    (&["run", "--task", "t", "--grace", "--", "true"], "a value is required for '--grace <D>'"),
    (&["run", "--task", "t", "--max-rss", "1.5G", "--", "true"], "fraction"),
    (&["run", "--task", "t", "--max-rss", "-1", "--", "true"], "'-1'"),
    (&["run", "--task", "t", "--max-rss", "5Q", "--", "true"], "`Q` is not a unit"),
    (&["run", "--task", "t", "--max-rss", "99999999999G", "--", "true"], "larger than 8 EiB"),
    (&["run", "--task", "", "--", "true"], "the task id is empty"),
    (&["run", "--task", "t", "--", ""], "the program's name is empty"),
    (&["run", "--task", "t"], "<CMD>..."),
    (&["run", "--task", "t", "--"], "<CMD>..."),
    (&["run", "--task", "--", "true"], "'--task <ID>'"),
    (&["run", "--task", "a", "--task", "b", "--", "true"], "multiple times"),
    (
        &["run", "--task", "t", "--containment", "jail", "--", "true"],
        "give auto, cgroup, keeper or session",
    ),
    (&["run", "--task", "t", "--cgroup", "", "--", "true"], "'--cgroup <PATH>'"),
    (
        &["run", "--cgroup", "/sys/fs/cgroup", "--containment", "session", "--", "true"],
        "--cgroup is of no use with --containment session",
    ),
    (
        &["run", "--cgroup", "/sys/fs/cgroup", "--containment", "keeper", "--", "true"],
        "--cgroup is of no use with --containment keeper",
    ),
    (&["run", "--task", "t", "--protect", "a/b", "--", "true"], "without a slash"),
    (&["run", "--task", "t", "--protect", "", "--", "true"], "'--protect <NAME>'"),
    (&["run", "--task", "t", "--survive=yes", "--", "true"], "'--survive'"),
    (&["run", "--task", "t", "--limit-size", "1", "--", "true"], "write 1M or more"),
    (&["run", "--task", "t", "--keep-history", "never", "--", "true"], "'--keep-history <D>'"),
    (&["run", "--no-such-option", "--", "true"], "'--no-such-option'"),
    (&["kill"], "<TASK>..."),
    (&["kill", "--protect", "name"], "<TASK>..."),
    (&["kill", ""], "the task id is empty"),
    (&["kill", "t", "--all"], "cannot be used with '--all'"),
    (&["kill", "t", "--protect", "/bin/sh"], "without a slash"),
    (&["kill", "t", "--grace", "5"], "no unit"),
    (&["kill", "t", "--signal", "BYE"], "write a signal such as TERM"),
    (&["kill", "t", "--signal", "65"], "from 1 to 64"),
    (&["run", "--stop-signal", "BYE:5s", "--", "true"], "write a signal such as TERM"),
    (&["run", "--stop-signal", "0", "--", "true"], "from 1 to 64"),
    (&["run", "--stop-signal", "INT:5", "--", "true"], "has no unit"),
    (&["run", "--stop-signal", "INT:", "--", "true"], "it is empty"),
    (&["run", "--stop-signal", "KILL:1s", "--", "true"], "SIGKILL is not a stop signal"),
    (&["run", "--stop-signal", "INT:2days", "--", "true"], "more than a day"),
    (&["run", "--rewrite", "TERM", "--", "true"], "write two signals, such as TERM:QUIT"),
    (&["run", "--rewrite", "TERM:BYE", "--", "true"], "write a signal such as TERM"),
    (&["run", "--rewrite", "KILL:TERM", "--", "true"], "KILL is never forwarded"),
    (&["run", "--rewrite", "15:1", "--rewrite", "TERM:2", "--", "true"], "TERM is given twice"),
    (&["run", "--success-exit", "0", "--", "true"], "0 is not in 1..=255"),
    (&["run", "--success-exit", "256", "--", "true"], "256 is not in 1..=255"),
    (&["kill", "t", "--now", "--grace", "1s"], "cannot be used with"),
    (&["wait"], "<TASK>..."),
    (&["wait", ""], "the task id is empty"),
    (&["wait", "t", "--timeout", "5"], "no unit"),
    (&["forget"], "<TASK>..."),
    (&["forget", ""], "the task id is empty"),
    (&["forget", "--all"], "'--all'"),
    (&["ps", "--limit", "5"], "--all"),
    (&["ps", "--all", "--limit", "0"], "0 is not in 1.."),
    (&["ps", "--all", "--limit", "many"], "'many'"),
    (&["ps", "--all", "--limit", "99999999999"], "'99999999999'"),
    (&["ps", "--watch", "--json"], "cannot be used with"),
    (&["ps", "--watch", "--all"], "cannot be used with"),
    (&["ps", "--watch", "--interval", "2"], "no unit"),
    (&["ps", "--watch", "--interval", "1ms"], "100ms"),
    (&["ps", "--interval", "2s"], "--watch"),
    (&["ps", "--watch"], "terminal"),
    (&["ps", "--json=1"], "'1'"),
    (&["ps", "-x"], "'-x'"),
    (&["tree", ""], "the task id is empty"),
    (&["tree", "--deep"], "'--deep'"),
    (&["health", "now"], "'now'"),
    (&["health", "--json", "--json"], "multiple times"),
    (&["reap", "--min-age", "5"], "no unit"),
    (&["reap", "--min-age", "-5s"], "'-5'"),
    (&["reap", "--orphan-name", "/usr/bin/x"], "without a slash"),
    (&["reap", "--orphan-name", ""], "orphan-name"),
    (&["reap", "--protect", "x/y"], "without a slash"),
    (&["reap", "--dryrun"], "'--dry-run'"),
    (&["scan", "--min-age", "5"], "no unit"),
    (&["scan", "t"], "'t'"),
    (&["watch", "--protect", ""], "'--protect <NAME>'"),
    (&["watch", "--dir", ""], "'--dir <DIR>'"),
    (&["watch", ""], "[LEDGER]"),
    (&["watch", "--limit-size", "10k"], "write 1M or more"),
    (&["watch", "--keep-history", "7"], "no unit"),
    (&["watch", "other.db", "--export", "x.json"], "--export applies to a single ledger"),
    (&["watch", "other.db", "--log-file", "x.log"], "--log-file applies to a single ledger"),
    (
        &["watch", "other.db", "--profile", "ecosystem-manager"],
        "--profile applies to a single ledger",
    ),
    (&["report", "--since", "yesterday"], "or 2h, or a date such as 2026-11-01"),
    (&["report", "--since", ""], "it is empty"),
    (&["report", "--by", "colour"], "day"),
    (&["report", "--by", ""], "'--by <BY>'"),
    (&["report", "--format", "xml"], "csv"),
    (&["report", "-o", ""], "'--output <FILE>'"),
    (&["metrics", "--since", "1"], "no unit"),
    (&["metrics", "--cpu"], "'--cpu'"),
    (&["export", ""], "'[FILE]'"),
    (&["export", "a", "b"], "'b'"),
    (&["import"], "<FILE>"),
    (&["import", ""], "'<FILE>'"),
    (&["import", "x.json", "--min-age", "1"], "no unit"),
    (&["doctor", "disk"], "'disk'"),
    (&["prune"], "--older-than <D>"),
    (&["prune", "--older-than", "x"], "`x` is not a duration: write one such as"),
    (&["prune", "--older-than", "30"], "write 30s for seconds"),
    (&["prune", "5days"], "'5days'"),
    (&["prune", "--older-than", "2026-13-01"], "is not a date"),
    (&["report", "--since", "2999-01-01"], "is in the future"),
    (&["ps", "t", "--watch"], "cannot be used with"),
    (&["completions"], "<SHELL>"),
    (&["completions", "tcl"], "bash"),
    (&["man"], "<DIR>"),
    (&["demo", "fast"], "'fast'"),
    (&["ps", "--profile", "nobody"], "ecosystem-manager"),
    (&["ps", "--db", ""], "'--db <FILE>'"),
    (&["ps", "--log-file", ""], "'--log-file <FILE>'"),
    (
        &["ps", "--trust-folder", "/no/such/folder"],
        "--trust-folder names the folder `/no/such/folder`",
    ),
    (&["ps", "--trust-folder", "/dev/null"], "which is not a folder"),
    (&["--db"], "'--db <FILE>'"),
    (&["kil", "t"], "did you mean `procledger kill`?"),
    (&["list"], "did you mean `procledger ps`?"),
    (&["no-such-command"], "no subcommand `no-such-command`"),
];

#[test]
fn a_wrong_command_line_is_refused_in_one_line_with_exit_code_2() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let before = bytes_of(place.path());
    let long = "x".repeat(1025);
    let of_long = [["tree", &long], ["kill", &long], ["forget", &long]];
    let of_long = of_long.iter().map(|args| (&args[..], "1025 bytes"));
    for (args, part) in WRONG.into_iter().chain(of_long) {
        let answer = answer(procledger(&place).args(args).current_dir(place.path())).expect(2);
        let line = answer.complaint();
        assert!(line.contains(part), "{args:?}: {part:?} is not in {line}");
        assert!(before == bytes_of(place.path()), "{args:?} changed the disk");
    }
}

#[test]
fn without_a_subcommand_the_help_is_printed() {
    let place = Place::new();
    let answer = answer(&mut bare(&place)).expect(2);
    assert!(answer.out.is_empty() && answer.err.contains("Usage: procledger"), "{answer:?}");
}

#[test]
fn an_invalid_variable_is_refused_in_one_line_and_changes_nothing() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    for (variable, value, code, part) in [
        ("PROCLEDGER_CONTAINMENT", "jail", 125, "set it to auto, cgroup, keeper or session"),
        ("PROCLEDGER_LIMIT_SIZE", "1k", 2, "write 1M or more"),
        ("PROCLEDGER_KEEP_HISTORY", "x", 2, "`x` is not a duration"),
        (
            "PROCLEDGER_TRUST_FOLDER",
            "missing",
            2,
            "$PROCLEDGER_TRUST_FOLDER names the folder `missing`",
        ),
        ("PROCLEDGER_LOG", "a=b=c", 2, "PROCLEDGER_LOG"),
    ] {
        let before = bytes_of(place.path());
        let mut command = procledger(&place);
        command.args(["run", "--task", "u", "--", "true"]).env(variable, value);
        let answer = answer(command.current_dir(place.path())).expect(code);
        assert!(answer.complaint().contains(part), "{variable}: {answer:?}");
        assert!(before == bytes_of(place.path()), "{variable} changed the disk");
        assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE task_id = 'u'"), "0");
    }
}

/// Each subcommand takes a trusted folder relative to the working directory, and refuses a missing
/// one.
#[test]
fn a_relative_trusted_folder_is_used() {
    let place = Place::new();
    let folder = place.path().join("shared");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("a mode");
    let ledger = folder.join("ledger.db");
    let at = |args: &[&str], variable: Option<&str>| {
        let mut command = on_ledger(&place, &ledger);
        if let Some(folder) = variable {
            command.env("PROCLEDGER_TRUST_FOLDER", folder);
        }
        answer(command.args(args).current_dir(place.path()))
    };
    at(&["run", "--task", "t", "--trust-folder", "shared", "--", "true"], None).expect(0);
    at(&["run", "--task", "t", "--", "true"], Some("shared")).expect(0);
    for args in [&["ps"][..], &["reap"], &["report"], &["doctor"], &["prune", "--older-than", "1h"]]
    {
        at(args, Some("./shared")).expect(0);
        assert!(at(args, Some("Shared")).expect(2).complaint().contains("`Shared`"), "{args:?}");
        let named = [args, &["--trust-folder", "Shared"]].concat();
        assert!(at(&named, Some("shared")).expect(2).complaint().contains("`Shared`"), "{args:?}");
    }
    let watch = ["watch", "other.db", "--trust-folder", "Shared"];
    assert!(at(&watch, None).expect(2).complaint().contains("`Shared`"));
}

/// The name of an instance's lock is 47 bytes longer than that of the ledger.
#[test]
fn a_name_that_is_too_long_is_refused_before_anything_is_created() {
    let place = Place::new();
    for (length, code) in [(208, 0), (209, 125), (240, 125), (255, 125), (256, 125)] {
        let folder = place.path().join(length.to_string());
        fs::create_dir(&folder).expect("a folder");
        let ledger = folder.join("x".repeat(length));
        let answer = answer(on_ledger(&place, &ledger).args(["run", "--task", "t", "--", "true"]));
        let answer = answer.expect(code);
        if code != 0 {
            let line = answer.complaint();
            assert!(line.contains("at most 208 bytes") || line.contains("name too long"), "{line}");
            assert!(bytes_of(&folder).is_empty(), "{length}");
        }
    }
}

/// SQLite refused it without saying why.
#[test]
fn a_path_too_long_for_sqlite_was_refused_without_a_reason() {
    let place = Place::new();
    for (length, code) in [(504, 0), (505, 125), (2_000, 125)] {
        let mut folder = place.path().join(length.to_string());
        while folder.as_os_str().len() + 202 < length {
            folder.push("x".repeat(100));
        }
        fs::create_dir_all(&folder).expect("a folder");
        let ledger = folder.join("y".repeat(length - folder.as_os_str().len() - 1));
        let answer = answer(on_ledger(&place, &ledger).args(["run", "--task", "t", "--", "true"]));
        let answer = answer.expect(code);
        if code != 0 {
            assert!(answer.complaint().contains("SQLite opens none of more than 504"), "{length}");
            assert!(bytes_of(&folder).is_empty(), "{length}");
        }
    }
}

/// SQLite cannot remove its journal there, and reports an I/O error; the disk was blamed.
#[test]
fn an_append_only_folder_or_ledger_is_named() {
    need!("chattr");
    if !root() {
        return;
    }
    let place = Place::new();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let ledger = folder.join("ledger.db");
    let chattr = |how: &str, path: &Path| {
        let done = std::process::Command::new("chattr").arg(how).arg(path).output();
        done.expect("chattr").status.success()
    };
    if !chattr("+a", &folder) {
        return skipped("this file system has no attributes");
    }
    let start = || answer(on_ledger(&place, &ledger).args(["run", "--task", "t", "--", "true"]));
    let (refused, left) = (start(), bytes_of(&folder));
    assert!(chattr("-a", &folder));
    assert!(refused.complaint().contains("chattr -a"), "{refused:?}");
    assert!(left.is_empty());
    refused.expect(125);
    start().expect(0);
    assert!(chattr("+i", &ledger));
    let refused = start();
    assert!(chattr("-i", &ledger));
    assert!(refused.complaint().contains("immutable"), "{refused:?}");
    start().expect(0);
}

#[test]
fn unknown_tasks_are_refused() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    for verb in ["kill", "forget", "tree"] {
        let answer = run(&place, &[verb, "missing"]).expect(1);
        assert!(answer.complaint().contains("no task missing"), "{answer:?}");
        assert!(answer.err.contains("procledger ps"), "{answer:?}");
    }
}

#[test]
fn an_output_file_that_cannot_be_created_is_named() {
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
fn a_report_that_cannot_be_written_keeps_the_old_one() {
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

/// It was logged as well.
#[test]
fn an_import_printed_the_reason_twice() {
    let place = Place::new();
    for (content, mode, what) in [
        ("[]", 0o666, "is not read"),
        ("[{", 0o644, "is malformed"),
        (
            r#"[{"task_id":"t","process_id":-5,"start_time":"2026-01-01T00:00:00Z"}]"#,
            0o644,
            "list.json",
        ),
    ] {
        let file = place.path().join("list.json");
        fs::write(&file, content).expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
        let answer = run(&place, &["import", file.to_str().expect("UTF-8")]).expect(1);
        assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
        assert!(answer.err.contains(what), "{answer:?}");
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
fn an_import_of_a_missing_file_succeeded_silently() {
    let place = Place::new();
    let file = place.path().join("missing.json");
    let answer = run(&place, &["import", file.to_str().expect("UTF-8")]).expect(1);
    assert!(answer.complaint().contains("missing.json"), "{answer:?}");
}
