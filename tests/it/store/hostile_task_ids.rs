//! Task ids and arguments are untrusted data: SQL, HTML, terminal escapes, line breaks. Each is
//! stored unchanged, and reaches no terminal, page or log line as anything but text.

use std::fs;

use procledger::{Job, Tracker};

use crate::support::{Host, Place};

const HOSTILE: [&str; 12] = [
    "'); DROP TABLE process; --",
    "\" OR \"1\"=\"1",
    "<script>alert(1)</script>",
    "{{ 7*7 }}${jndi:ldap://x}",
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "two\nlines\r\nand\ttabs",
    "\u{9b}31mC1 \u{85}next",
    "\u{202e}desrever\u{2066}",
    "=HYPERLINK(\"http://x\")",
    "--db=/etc/passwd",
    "%s%n%x ../../etc\\passwd",
    "\u{7f}\u{8}\u{8}del 🦀 ünï",
];

/// Checks that there is nothing but text and line breaks.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|char| {
        char == '\n'
            || !(char.is_control()
                || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    })
}

#[test]
fn the_name_of_a_task_is_shown_as_text_everywhere() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    for id in HOSTILE {
        let job = Job::new(id, "/bin/sh")
            .args(["-c", "exec sleep 3600", place.marker(), id])
            .env("PROCLEDGER_IT_MARKER", place.marker());
        tracker.spawn(job).expect("a task may be called anything");
        let again = tracker.spawn(Job::new(id, "true")).expect_err("it runs");
        assert!(again.is_already_running());
        let line = again.to_string();
        assert!(is_harmless(&line) && line.lines().count() == 1, "{line:?}");
    }
    let running = tracker.ledger().roots().expect("rows");
    let stored: Vec<_> =
        running.iter().filter_map(|row| Some(row.spec.task_id.as_ref()?.as_str())).collect();
    assert_eq!(stored, HOSTILE, "each is stored as it is");

    shows_only_text(
        &place,
        &["ps", "tree", "reap --dry-run", "doctor", "health", "metrics", "export -"],
    );
    for id in HOSTILE {
        is_shown(&place, &["forget", "--", id]);
        is_shown(&place, &["run", "--task", id, "--", "true"]);
        is_shown(&place, &["kill", "--", "nobody\x1b[2J", id]);
    }
    assert_eq!(place.sqlite3("SELECT task_id, state FROM running"), "");
    tracker.shutdown().expect("an orderly end");
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), HOSTILE.len().to_string());

    // Strays of them, for the report.
    let mut host = Host::start(&place, "");
    host.spawn("plain", "exec sleep 3600");
    host.crash();
    rename_all(&place);
    shows_only_text(
        &place,
        &[
            "reap",
            "ps --all",
            "ps --all --json",
            "report",
            "report --by task",
            "report --format csv",
            "report --format json",
        ],
    );
    let page = place.procledger(&["report", "--format", "html"]);
    let page = String::from_utf8(page.stdout).expect("text");
    assert!(!page.contains("<script>alert"), "no id is markup");
    assert!(page.contains("&#60;script&#62;alert(1)"), "it is shown as text");
    assert!(is_harmless(&page.replace(['\t', '\r'], "")));
}

/// A leak of a task with a hostile name.
fn rename_all(place: &Place) {
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    let task = HOSTILE.concat();
    ledger
        .execute(
            "UPDATE process SET task_id = ?1, command = json_array(?1) WHERE task_id = 'plain'",
            [task],
        )
        .expect("renamed");
}

fn shows_only_text(place: &Place, verbs: &[&str]) {
    for verb in verbs {
        is_shown(place, &verb.split(' ').collect::<Vec<_>>());
    }
}

fn is_shown(place: &Place, verb: &[&str]) {
    let log = place.path().join("log");
    let log_file = log.to_str().expect("text");
    let args: Vec<&str> = ["-vvv", "--log-file", log_file].iter().chain(verb).copied().collect();
    let output = place.procledger(&args);
    for (what, bytes) in [
        ("stdout", &output.stdout),
        ("stderr", &output.stderr),
        ("log", &fs::read(&log).unwrap_or_default()),
    ] {
        let text = String::from_utf8(bytes.clone()).expect("text");
        let harmful = text.lines().find(|line| !is_harmless(line));
        assert_eq!(harmful, None, "{what} of {verb:?}");
    }
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

/// The library's own lines go to the host's log, which may be a terminal.
#[test]
fn the_name_of_a_task_cannot_break_lines_of_the_hosts_log() {
    let place = Place::new();
    let log = place.path().join("log");
    let mut host = Host::start(&place, &format!("log={} interval=100", log.display()));
    let task = "evil\x1b[2J\u{9b}\u{202e}task";
    let mut outside = place.child("exec sleep 3600");
    assert_eq!(host.ask(&format!("register {task} {}", outside.pid())), "done");
    host.ask(&format!("spawn {} exit 3", task.to_uppercase()));
    outside.0.kill().expect("killed");
    outside.0.wait().expect("reaped");
    crate::support::until("its end is logged", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("is no longer alive"))
    });
    host.stop();
    let text = fs::read_to_string(&log).expect("a log");
    assert_eq!(text.lines().find(|line| !is_harmless(line)), None);
    assert!(text.contains("evil\\x1b[2J"), "{text}");
}

#[test]
fn a_task_id_of_a_megabyte_is_refused_in_one_short_line() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let long = "\x1b[31m".repeat(200_000);
    let error = tracker.spawn(Job::new(long.as_str(), "true")).expect_err("too long");
    assert!(error.is_invalid_input());
    assert!(error.to_string().len() < 200, "{error}");
    // An argument may have 128 KiB (execve(2), MAX_ARG_STRLEN).
    let output = place.procledger(&["run", "--task", &long[..100_000], "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.len() < 300 && is_harmless(&String::from_utf8_lossy(&output.stderr)));
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
    tracker.shutdown().expect("an orderly end");
}
