//! `ship --to -`: JSON lines.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use procledger_testing::is_alive;
use serde_json::Value;

use crate::support::{Guard, Place, need, processes_with, until};

fn lines(place: &Place, args: &[&str]) -> Vec<Value> {
    let shipped = place.procledger(&[&["ship", "--to", "-", "--once"], args].concat());
    assert!(shipped.status.success(), "{}", String::from_utf8_lossy(&shipped.stderr));
    let text = String::from_utf8(shipped.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn keys(lines: &[Value]) -> Vec<(String, i64, String)> {
    let key = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("type"), line["id"].as_i64().unwrap_or(0), text("state"))
    };
    lines.iter().map(key).collect()
}

fn run(place: &Place, task: &str, script: &str) {
    let line = ["run", "--task", task, "--", "sh", "-c", script];
    place.procledger(&line);
}

#[test]
fn a_cursor_continues_where_the_last_batch_ended() {
    let place = Place::new();
    run(&place, "a", "exit 1");
    let cursor = place.path().join("cursor");
    let with_cursor = ["--cursor", cursor.to_str().expect("text"), "--host", "web-1"];
    let first = lines(&place, &with_cursor);
    assert_eq!(keys(&first), [("process".to_owned(), 1, "ended".to_owned())]);
    assert_eq!((&first[0]["host"], &first[0]["exit_code"]), (&"web-1".into(), &1.into()));
    assert_eq!(first[0]["stream"], place.sqlite3("SELECT uuid FROM ledger").as_str());
    assert!(lines(&place, &with_cursor).is_empty());
    run(&place, "b", "exit 0");
    assert_eq!(keys(&lines(&place, &with_cursor)), [("process".to_owned(), 2, "ended".to_owned())]);
    assert_eq!(lines(&place, &[]).len(), 2, "without a cursor from the start");
}

#[test]
fn a_ledger_that_was_restored_is_shipped_again() {
    let place = Place::new();
    run(&place, "a", "exit 1");
    let backup = place.path().join("backup.db");
    let copy = |from: &Path, to: &Path| {
        let mut to = rusqlite::Connection::open(to).expect("opens");
        let from = rusqlite::Connection::open(from).expect("opens");
        let copy = rusqlite::backup::Backup::new(&from, &mut to).expect("a backup");
        copy.run_to_completion(1000, std::time::Duration::ZERO, None).expect("copied");
    };
    copy(&place.ledger(), &backup);
    run(&place, "b", "exit 1");
    let cursor = place.path().join("cursor");
    let with_cursor = ["--cursor", cursor.to_str().expect("text")];
    assert_eq!(lines(&place, &with_cursor).len(), 2);
    copy(&backup, &place.ledger());
    run(&place, "c", "exit 1");
    let again = lines(&place, &with_cursor);
    let tasks: Vec<_> = again.iter().map(|line| line["task_id"].as_str().expect("text")).collect();
    assert_eq!(tasks, ["a", "c"]);
}

#[test]
fn without_commands_a_line_has_the_name_of_the_program() {
    let place = Place::new();
    run(&place, "a", "exit 1; secret");
    let shipped = lines(&place, &["--no-commands"]);
    assert_eq!(shipped[0]["command"], serde_json::json!(["sh"]));
}

#[test]
fn missing_ledgers_and_unusable_cursors_are_refused() {
    let place = Place::new();
    let missing = place.procledger(&["ship", "--to", "-"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no ledger at"), "{missing:?}");
    run(&place, "a", "true");
    let ended_are_lines = place.procledger(&["ship", "--to", "-", "--no-history"]);
    assert_eq!(ended_are_lines.status.code(), Some(2));
    let ledger = place.ledger();
    let over = place.procledger(&["ship", "--to", "-", "--cursor", ledger.to_str().expect("text")]);
    assert!(!over.status.success());
    let cursor = place.path().join("cursor");
    fs::write(&cursor, "text").expect("written");
    let broken =
        place.procledger(&["ship", "--to", "-", "--cursor", cursor.to_str().expect("text")]);
    assert!(String::from_utf8_lossy(&broken.stderr).contains("is not a cursor"), "{broken:?}");
}

/// A real pipeline, which starts the shipper again after a kill.
#[test]
fn syslog_ng_receives_every_row() {
    need!("syslog-ng");
    let place = Place::new();
    run(&place, "before", "exit 1");
    let at = |name: &str| place.path().join(name).to_str().expect("text").to_owned();
    let program = format!(
        "exec {} ship --to - --db {} --cursor {} --host {} --interval 100ms",
        env!("CARGO_BIN_EXE_procledger"),
        at("ledger.db"),
        at("cursor"),
        place.marker(),
    );
    let configuration = format!(
        "@version: current\n\
         source ledger {{ program(\"{program}\" flags(no-parse)); }};\n\
         parser json {{ json-parser(); }};\n\
         destination rows {{ file(\"{}\" template(\"${{type}} ${{id}} ${{print}} ${{state}} ${{exit_code}}\\n\")); }};\n\
         log {{ source(ledger); parser(json); destination(rows); }};\n",
        at("rows"),
    );
    fs::write(at("syslog-ng.conf"), configuration).expect("written");
    let mut pipeline = Command::new("syslog-ng");
    pipeline.args(["--foreground", "--no-caps", "--cfgfile", &at("syslog-ng.conf")]);
    pipeline.args(["--persist-file", &at("persist"), "--pidfile", &at("pid")]);
    pipeline.args(["--control", &at("control")]).env("PROCLEDGER_IT_MARKER", place.marker());
    let _pipeline = Guard(pipeline.spawn().expect("it starts"));
    let received = |id: i64| {
        let text = fs::read_to_string(at("rows")).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with(&format!("process {id} ")) && line.contains(" ended "))
    };
    until("the first row is received", || received(1));
    let shipper = || {
        let ours = processes_with(place.marker());
        let is_shipper = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(6).any(|word| word == b"\0ship\0") && is_alive(*pid)
        };
        ours.into_iter().find(is_shipper)
    };
    let first = shipper().expect("it runs");
    let pidfd = crate::support::pidfd(first).expect("it is ours");
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).expect("killed");
    run(&place, "while", "exit 2");
    until("the row after the kill is received", || received(2));
    run(&place, "after", "exit 3");
    until("the last row is received", || received(3));
    let text = fs::read_to_string(at("rows")).expect("text");
    let ended: BTreeSet<&str> = text.lines().filter(|line| line.contains(" ended ")).collect();
    let codes: Vec<_> =
        ended.iter().map(|line| line.split(' ').next_back().unwrap_or("")).collect();
    assert_eq!(codes, ["1", "2", "3"], "{text}");
}
