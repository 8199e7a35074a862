//! The leak report as a page, in a real browser: it shows the same as the JSON, sorts, fits a
//! phone, and executes nothing from the name of a task.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    cli::browser::Browser,
    cli::command::run,
    support::{Place, need},
};

const DAY: i64 = 86_400_000;

/// A leak as a pass would have recorded it.
struct Leak<'a> {
    task: Option<&'a str>,
    command: &'a [&'a str],
    kind: &'a str,
    days_ago: i64,
    rss: Option<i64>,
    outcome: &'a str,
}

const PLAIN: Leak<'_> = Leak {
    task: Some("nightly"),
    command: &["/usr/bin/node", "server.js"],
    kind: "orphan",
    days_ago: 1,
    rss: Some(3 << 20),
    outcome: "term",
};

/// A ledger with these leaks; its only passes are those that opened it.
fn with_leaks(place: &Place, leaks: &[Leak<'_>]) {
    run(place, &["run", "--task", "t", "--", "true"]).expect(0);
    let now = chrono::Utc::now().timestamp_millis();
    let mut ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    let all = ledger.transaction().expect("a transaction");
    for (index, leak) in (1..).zip(leaks) {
        let at = now - leak.days_ago * DAY;
        all.execute(
            "INSERT INTO process (task_id, owner, first_owner, origin, pid, start_tick, containment, command, uid, state,
               started_at, ended_at, grace_ms, end_reason)
             VALUES (?1, 1, 1, 'spawned', ?2, 1, 'session', ?3, 0, 'ended', ?4, ?5, 100, 'orphan')",
            (leak.task, 1000 + index, serde_json::to_string(leak.command).expect("words"), at - 1, at),
        )
        .expect("a row");
        all.execute(
            "INSERT INTO leak (process, kind, rule, evidence, found_at, age_ms, rss_bytes, outcome, died_after_ms)
             VALUES (last_insert_rowid(), ?1, 'its instance is dead', 'session', ?2, ?3, ?4, ?5, 3)",
            (leak.kind, at, index * 777_777, leak.rss, leak.outcome),
        )
        .expect("a row");
    }
    all.commit().expect("committed");
}

fn page(place: &Place, name: &str, more: &[&str]) -> PathBuf {
    let file = place.path().join(name);
    let path = file.to_str().expect("UTF-8");
    run(place, &[&["report", "--format", "html", "-o", path], more].concat()).expect(0);
    file
}

/// The table's rows, each cell by its sorting value.
fn cells(browser: &mut Browser, table: &str) -> Vec<Vec<String>> {
    let rows = browser.evaluate(&format!(
        "[...document.querySelectorAll('#{table} tbody tr')].map(row => [...row.cells].map(cell => cell.dataset.value ?? cell.textContent))"
    ));
    serde_json::from_value(rows).expect("rows of words")
}

fn sum(groups: &Value, field: &str) -> f64 {
    groups
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| group[field].as_f64().expect("a number"))
        .sum()
}

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} is not {b}");
}

fn assert_same_as_json(browser: &mut Browser, place: &Place, by: &str) {
    let groups = run(place, &["report", "--by", by, "--format", "json"]).expect(0).json();
    let rows = cells(browser, &format!("by-{by}"));
    let groups = groups.as_array().expect("groups");
    assert_eq!(rows.len(), groups.len(), "by {by}");
    for (row, group) in rows.iter().zip(groups) {
        assert_eq!(row[0], group["key"].as_str().expect("a key"), "by {by}");
        for (cell, field) in [
            (1, "leaks"),
            (2, "orphans"),
            (3, "strays"),
            (4, "unregistered"),
            (5, "survived"),
            (7, "rss_bytes"),
        ] {
            assert_eq!(row[cell], group[field].to_string(), "by {by}: {field} of {}", row[0]);
        }
        close(
            row[6].parse().expect("a number"),
            group["process_hours"].as_f64().expect("a number"),
        );
    }
}

fn assert_fits(browser: &mut Browser, width: u32) {
    browser.resize(width, 740);
    let widest = browser.evaluate("document.documentElement.scrollWidth");
    assert!(widest.as_u64().expect("a number") <= u64::from(width), "{width} wide, yet {widest}");
}

#[test]
fn the_page_shows_and_sorts_what_the_json_contains() {
    need!("chromium");
    let place = Place::new();
    with_leaks(
        &place,
        &[
            Leak { outcome: "survived", ..PLAIN },
            Leak { kind: "stray", days_ago: 3, rss: None, ..PLAIN },
            Leak {
                task: Some("build-9"),
                command: &["redis-server", "*:6379"],
                rss: Some(5 << 30),
                ..PLAIN
            },
            Leak { task: Some("build-10"), kind: "unregistered", days_ago: 9, ..PLAIN },
            Leak { task: None, kind: "unregistered", days_ago: 9, rss: Some(1), ..PLAIN },
            Leak { task: Some("build-9"), command: &["sh", "-c", "x"], days_ago: 40, ..PLAIN },
            Leak { task: Some("build-9"), days_ago: 9, ..PLAIN },
        ],
    );
    let mut browser = Browser::start(&place);
    browser.open(&page(&place, "report.html", &[]));
    for by in ["day", "task", "rule", "program"] {
        assert_same_as_json(&mut browser, &place, by);
    }
    sums_equal_those_of_json(&mut browser, &place);
    drawings_hold_every_leak(&mut browser);
    tables_sort_by_mouse_and_keyboard(&mut browser);
    for width in [360, 768, 1280] {
        assert_fits(&mut browser, width);
    }
    let paper = |browser: &mut Browser, scheme: &str| {
        browser.prefer(scheme);
        browser.evaluate("getComputedStyle(document.body).backgroundColor")
    };
    assert_ne!(paper(&mut browser, "dark"), paper(&mut browser, "light"));
    assert_eq!(browser.complaints(), [""; 0]);
}

fn sums_equal_those_of_json(browser: &mut Browser, place: &Place) {
    let groups = run(place, &["report", "--by", "rule", "--format", "json"]).expect(0).json();
    for (tile, field) in [
        ("sum-leaks", "leaks"),
        ("sum-survived", "survived"),
        ("sum-hours", "process_hours"),
        ("sum-memory", "rss_bytes"),
    ] {
        let shown =
            browser.evaluate(&format!("document.querySelector('#{tile} dd').dataset.value"));
        close(shown.as_str().expect("text").parse().expect("a number"), sum(&groups, field));
    }
    let leaks = run(place, &["report", "--format", "json"]).expect(0).json();
    let leaks = leaks.as_array().expect("leaks");
    let rows = cells(browser, "leaks");
    assert_eq!(rows.len(), leaks.len());
    for (row, leak) in rows.iter().zip(leaks) {
        assert_eq!(row[1], leak["task_id"].as_str().unwrap_or("no task"));
        assert_eq!((&row[2], &row[4]), (&leak["pid"].to_string(), &leak["age_ms"].to_string()));
        let memory = leak["rss_bytes"].as_u64().map_or_else(String::new, |rss| rss.to_string());
        assert_eq!(row[5], memory);
    }
}

/// Each chart has a title and a description, and the bars' heights match the leaks of each slot.
fn drawings_hold_every_leak(browser: &mut Browser) {
    let named = "[...document.querySelectorAll('figure .plot > svg')].map(svg => svg.getAttribute('aria-labelledby').split(' ').map(id => document.getElementById(id).textContent).join(': '))";
    let named: Vec<String> = serde_json::from_value(browser.evaluate(named)).expect("texts");
    assert_eq!(named.len(), 3, "{named:?}");
    assert!(named[0].contains("7 leaks in all"), "{named:?}");
    let top = browser.evaluate("document.querySelector('#chart-leaks .scale span').textContent");
    let top: f64 = top.as_str().expect("text").parse().expect("a number");
    let drawn = "[...document.querySelectorAll('#chart-leaks g rect:not(.slot)')].reduce((sum, bar) => sum + bar.height.baseVal.value, 0)";
    let drawn = browser.evaluate(drawn).as_f64().expect("a number");
    assert!((drawn / 100.0 * top - 7.0).abs() < 0.01, "{drawn} of {top}");
}

fn tables_sort_by_mouse_and_keyboard(browser: &mut Browser) {
    let column = |browser: &mut Browser, table: &str, column: usize| -> Vec<String> {
        cells(browser, table).into_iter().map(|mut row| row.swap_remove(column)).collect()
    };
    let state = |browser: &mut Browser, column: usize| {
        browser.evaluate(&format!(
            "document.querySelectorAll('#by-task thead th')[{column}].getAttribute('aria-sort')"
        ))
    };
    let click = |browser: &mut Browser, column: usize| {
        browser.evaluate(&format!(
            "document.querySelectorAll('#by-task thead button')[{column}].click()"
        ));
    };
    assert_eq!(state(browser, 1), "descending", "as it comes");
    click(browser, 7);
    let memory: Vec<u64> =
        column(browser, "by-task", 7).iter().map(|cell| cell.parse().expect("bytes")).collect();
    assert!(memory.is_sorted_by(|a, b| a >= b), "{memory:?}");
    assert_eq!((state(browser, 7), state(browser, 1)), ("descending".into(), Value::Null));
    click(browser, 7);
    let memory: Vec<u64> =
        column(browser, "by-task", 7).iter().map(|cell| cell.parse().expect("bytes")).collect();
    assert!(memory.is_sorted(), "{memory:?}");
    assert_eq!(state(browser, 7), "ascending");
    // Words sort from A, and the numbers in them by their value: the keyboard reaches the same
    // buttons.
    browser.evaluate("document.querySelectorAll('#by-task thead button')[1].focus()");
    browser.press("Tab", "");
    browser.evaluate("document.querySelectorAll('#by-task thead button')[0].focus()");
    browser.press("Enter", "\r");
    assert_eq!(column(browser, "by-task", 0), ["", "build-9", "build-10", "nightly"]);
    assert_eq!(state(browser, 0), "ascending");
    // A value that was not measured is less than any value that was.
    browser.evaluate("document.querySelectorAll('#leaks thead button')[5].click()");
    assert_eq!(column(browser, "leaks", 5).last().map(String::as_str), Some(""));
}

#[test]
fn the_name_of_a_task_is_never_executed() {
    need!("chromium");
    let place = Place::new();
    let hostile = [
        "<script>document.title='taken'</script>",
        "</style></script><img src=x onerror=\"document.title='taken'\">",
        "\"><svg onload=document.title='taken'>",
        "' autofocus onfocus='document.title=1'",
        "<style nonce=x>body{display:none}</style>",
        "{{ nonce }}{% raw %}",
        "right\u{202e}left\u{2066}\u{9b}31m\u{1b}[2J\r\nline",
        "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    ];
    let leaks: Vec<Leak<'_>> = (hostile.iter())
        .map(|task| Leak { task: Some(task), command: std::slice::from_ref(task), ..PLAIN })
        .collect();
    with_leaks(&place, &leaks);
    let file = page(&place, "report.html", &["--by", "program"]);
    let text = fs::read_to_string(&file).expect("UTF-8");
    let raw = text.chars().find(|&char| {
        (char.is_control() && char != '\n') || char == '\u{202e}' || char == '\u{2066}'
    });
    assert_eq!(raw, None, "control characters and overrides are shown, not sent");
    assert!(
        !text.contains("src=\"http") && !text.contains("href=\"http") && !text.contains("@import")
    );
    let mut browser = Browser::start(&place);
    browser.open(&file);
    let title = browser.evaluate("document.title");
    assert!(title.as_str().expect("a title").starts_with("Leak report: "), "{title}");
    let shown: Vec<String> =
        cells(&mut browser, "by-task").into_iter().map(|mut row| row.swap_remove(0)).collect();
    for task in &hostile[..6] {
        assert!(shown.iter().any(|row| row == task), "{task} in {shown:?}");
    }
    assert!(
        shown
            .iter()
            .any(|row| row == "right\\u{202e}left\\u{2066}\\u{9b}31m\\x1b[2J\\x0d\\x0aline"),
        "{shown:?}"
    );
    let elements = browser.evaluate("[document.scripts.length, document.querySelectorAll('style').length, document.images.length]");
    assert_eq!(elements, serde_json::json!([1, 1, 0]));
    assert_eq!(browser.evaluate("document.querySelector('main table').id"), "by-program");
    assert_fits(&mut browser, 360);
    assert_eq!(browser.complaints(), [""; 0]);
    injected_code_is_refused(&mut browser);
}

/// Even if a script got into the page, the policy would block it.
fn injected_code_is_refused(browser: &mut Browser) {
    browser.evaluate(
        "{ const script = document.createElement('script'); script.textContent = \"document.title = 'taken'\"; document.body.append(script); }",
    );
    let title = browser.evaluate("document.title");
    assert!(title.as_str().expect("a title").starts_with("Leak report: "), "{title}");
    assert!(!browser.complaints().is_empty(), "the browser says so");
}

#[test]
fn an_empty_report_shows_whether_a_pass_has_run() {
    need!("chromium");
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let looked = page(&place, "looked.html", &["--since", "1h"]);
    let empty = page(&place, "empty.html", &["--since", "0s"]);
    let mut browser = Browser::start(&place);
    let mut shown = |file: &Path| {
        browser.open(file);
        assert_fits(&mut browser, 360);
        assert_eq!(browser.complaints(), [""; 0]);
        let text = browser.evaluate("document.body.innerText");
        text.as_str().expect("text").to_owned()
    };
    let text = shown(&looked);
    assert!(text.contains("No leaks found") && text.contains("pass"), "{text}");
    let text = shown(&empty);
    assert!(text.contains("Not checked") && !text.contains("No leaks found"), "{text}");
    let report = |since: &str| run(&place, &["report", "--since", since]).expect(0).out;
    assert!(report("1h").starts_with("No leaks found in "), "{}", report("1h"));
    assert!(report("0s").contains("no pass was made"), "{}", report("0s"));
}
