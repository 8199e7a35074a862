//! What the subcommands of `fleet` print, from rows that a test has inserted.

use std::{io::Read, process::Stdio};

use procledger::fleet::{Address, Fleet};
use serde_json::Value;

use super::{
    fleet, printed, refused,
    server::{Database, database},
};
use crate::{
    cli::{browser::Browser, metrics},
    support::{Guard, Place, need},
};

/// Text that no terminal and no page may interpret.
const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'\">\u{1b}[2J\u{202e}";

/// A fleet of three hosts: `web-1` is well, `web-2` has been silent for three hours, `db-1` has
/// lost rows. Each has 40 leaks, of 30 tasks, in the last ten days.
fn three_hosts() -> Option<Database> {
    let database = database()?;
    printed(fleet(&["init", "--to", &database.url()]));
    let insert = format!(
        "INSERT INTO fleet.stream (ledger, host, boot, mark, process, leak, version, seen_at) VALUES
           ('11111111111111111111111111111111', 'web-1', gen_random_uuid(), gen_random_uuid(), 9, 9, '0.2.0', now()),
           ('22222222222222222222222222222222', 'web-2', gen_random_uuid(), gen_random_uuid(), 9, 9, '0.2.0', now() - interval '3 hours'),
           ('33333333333333333333333333333333', 'db-1', gen_random_uuid(), gen_random_uuid(), 9, 9, '0.2.0', now());
         UPDATE fleet.stream SET gap = 1200, leak_gap = 4, lost = 3, restarts = 1, skew_ms = -60000,
           forked_from = '11111111111111111111111111111111' WHERE host = 'db-1';
         INSERT INTO fleet.live (stream, id, print, task_id, pid, state, origin, containment, survive, program, command, started_at)
           SELECT stream, n, 1, 'task-' || n, 100 + n, CASE WHEN n = 3 AND host = 'db-1' THEN 'survived' ELSE 'running' END,
             'spawned', 'cgroup', false, 'p', json_build_array('{hostile}', '--flag')::text, now() - interval '1 day'
           FROM fleet.stream, generate_series(1, 3) AS n;
         INSERT INTO fleet.leak (stream, id, print, process, root, verified, task_id, pid, kind, rule, rule_key, evidence, evidence_key,
             found_at, age_ms, rss_bytes, outcome, died_after_ms, stop_signal, program, command)
           SELECT stream, n, 1, n, n, true, CASE WHEN n = 40 THEN NULL WHEN n = 1 THEN '{hostile}' ELSE 'task-' || n % 30 END, 100 + n,
             (ARRAY['orphan', 'stray', 'unregistered'])[1 + n % 3], 'its instance is dead',
             CASE WHEN n % 2 = 0 THEN 'instance_dead' ELSE 'root_ended' END, 'cgroup', 'cgroup',
             now() - n * interval '6 hours' - interval '1 second', 1000 * n, CASE WHEN n % 5 = 0 THEN NULL ELSE n << 20 END,
             CASE WHEN n = 7 THEN 'survived' ELSE 'term' END, 3, CASE WHEN n % 2 = 0 THEN 2 END, 'prog-' || n % 4, json_build_array('{hostile}')::text
           FROM fleet.stream, generate_series(1, 40) AS n;
         INSERT INTO fleet.pass_day SELECT stream, current_date, 'health', 2880, 1, 31000, now() FROM fleet.stream",
        hostile = HOSTILE.replace('\'', "''")
    );
    database.client().batch_execute(&insert).unwrap_or_else(|error| panic!("{error:?}"));
    // Makes the sums.
    printed(fleet(&["maintain", "--to", &database.url()]));
    Some(database)
}

fn from(database: &Database, words: &[&str]) -> std::process::Command {
    let mut command = fleet(words);
    command.env("PROCLEDGER_FLEET", database.url());
    command
}

fn json(database: &Database, words: &[&str]) -> Value {
    serde_json::from_str(&printed(from(database, words))).expect("JSON")
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(|char| (char.is_control() && char != '\n') || char == '\u{202e}')
}

#[test]
fn the_list_of_hosts_notes_what_needs_attention() {
    let Some(database) = three_hosts() else { return };
    let table = printed(from(&database, &["hosts"]));
    let line = |host: &str| table.lines().find(|line| line.starts_with(host)).expect(host);
    assert!(line("web-1").trim_end().ends_with("0.2.0"), "no notes: {table}");
    assert!(
        line("web-2").contains("3h00m ago") && line("web-2").contains("silent since "),
        "{table}"
    );
    for note in [
        "copy of web-1",
        "clock 1m00s behind",
        "gap: rows pruned before they were shipped: 1204",
        "open rows lost: 3",
        "shipped again from the start: nothing is counted twice",
    ] {
        assert!(line("db-1").contains(note), "{note}: {table}");
    }
    let hosts = json(&database, &["hosts", "--json"]);
    assert_eq!(hosts.as_array().map(Vec::len), Some(3));
    assert_eq!((&hosts[0]["host"], &hosts[0]["survivors"]), (&"db-1".into(), &1.into()));
    assert_eq!(hosts[0]["copy_of"], "web-1");
    assert!(hosts[2]["silent_ms"].as_u64().expect("a number") >= 3 * 3_600_000);
}

#[test]
fn processes_of_a_silent_host_are_shown_as_of_its_last_report() {
    let Some(database) = three_hosts() else { return };
    let table = printed(from(&database, &["ps"]));
    assert!(is_plain(&table), "{table:?}");
    let of = |host: &str| table.lines().filter(|line| line.starts_with(host)).collect::<Vec<_>>();
    assert_eq!(of("web-1").len(), 3);
    assert!(of("web-1").iter().all(|line| line.contains("running")), "{table}");
    assert!(of("web-2").iter().all(|line| line.contains("as of 3h00m ago")), "{table}");
    assert!(!of("web-2").iter().any(|line| line.contains("running")), "{table}");
    assert!(of("db-1").iter().any(|line| line.contains("survived")), "{table}");
    let rows = json(&database, &["ps", "--json"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(9));
    assert_eq!(rows[0]["command"][0], HOSTILE, "escaped, with the same meaning");
}

/// The list is not formatted by `serde_json`, unlike all others.
#[test]
fn the_list_of_processes_has_the_format_of_all_json() {
    let Some(database) = three_hosts() else { return };
    let rows = r#"UPDATE fleet.live SET task_id = NULL, root = 7, owner = 'a "b" \ c', uid = 0, survive = true, command = '[]',
          started_at = '1969-12-31 23:59:59.9995+00', peak_rss_bytes = 1, cpu_ms = -2, last_error = E'a
b' WHERE id = 1;
        UPDATE fleet.live SET command = 'no JSON', task_id = 'täxt' WHERE id = 2"#;
    database.client().batch_execute(rows).expect("updated");
    let address = Address::parse(&database.url()).expect("valid");
    let objects = Fleet::open(&address).expect("opens").live(|process| {
        let list = serde_json::to_string_pretty(&[process]).expect("valid");
        list.strip_prefix("[\n")
            .and_then(|list| list.strip_suffix("\n]"))
            .expect("a list")
            .to_owned()
    });
    let expected = format!("[\n{}\n]\n", objects.expect("read").join(",\n"));
    // Each reads the clock of the database.
    let without_ages = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("    \"silent_ms\": "));
        lines.map(str::to_owned).collect()
    };
    let text = printed(from(&database, &["ps", "--json"]));
    assert_eq!(text.lines().count(), without_ages(&text).len() + 9);
    assert_eq!(without_ages(&text), without_ages(&expected.replace('\u{202e}', "\\u202e")));
}

/// A long list is written in parts, each of which is escaped for itself.
#[test]
fn a_list_written_in_parts_is_one_list() {
    let Some(database) = three_hosts() else { return };
    let task = "ä\n\u{202e}".repeat(30);
    let many = format!(
        "INSERT INTO fleet.live (stream, id, print, task_id, pid, state, origin, containment, survive, program, command, started_at)
         SELECT 1, 1000 + n, 1, '{task}', 1, 'running', 'spawned', 'cgroup', false, 'p', '[]', now() + n * interval '1 ms'
         FROM generate_series(1, 3000) AS n"
    );
    database.client().batch_execute(&many).expect("inserted");
    let text = printed(from(&database, &["ps", "--json"]));
    assert!(is_plain(&text) && text.ends_with("\n]\n"));
    let rows: Value = serde_json::from_str(&text).expect("JSON");
    let rows = rows.as_array().expect("a list");
    assert_eq!(rows.len(), 9 + 3000);
    let many: Vec<&Value> = rows.iter().filter(|row| row["task_id"] == task.as_str()).collect();
    let ids: Vec<i64> = many.iter().map(|row| row["id"].as_i64().expect("a number")).collect();
    assert_eq!(ids, (1001..=4000).collect::<Vec<i64>>(), "by age");

    let mut ps = from(&database, &["ps", "--json"]);
    let mut ps = Guard(ps.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut first = [0; 2];
    ps.0.stdout.take().expect("a pipe").read_exact(&mut first).expect("read");
    assert_eq!(&first, b"[\n");
    assert!(ps.0.wait().expect("it ends").success(), "a reader may have seen enough");

    database.client().batch_execute("DELETE FROM fleet.live").expect("deleted");
    assert_eq!(printed(from(&database, &["ps", "--json"])), "[]\n");
}

#[test]
fn a_leak_names_the_signal_that_ended_it_if_known() {
    let Some(database) = three_hosts() else { return };
    for words in ["leaks", "report"] {
        let table = printed(from(&database, &[words]));
        let count = |text: &str| table.matches(text).count();
        let outcomes = ["ended by INT, 3 ms", " ended, 3 ms", "survived, 3 ms"].map(count);
        assert_eq!(outcomes, [60, 57, 3], "{table}");
    }
    let leaks = json(&database, &["leaks", "--json"]);
    let signals: Vec<&Value> =
        leaks.as_array().expect("leaks").iter().map(|leak| &leak["stop_signal"]).collect();
    assert_eq!(signals.iter().filter(|signal| **signal == 2).count(), 60);
    assert_eq!(signals.iter().filter(|signal| signal.is_null()).count(), 60);
}

/// The sums are those of the leaks, wherever the window begins.
#[test]
fn sums_match_a_count_of_the_single_leaks() {
    let Some(database) = three_hosts() else { return };
    for (by, key) in [
        ("day", "to_char(found_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"),
        ("hour", "to_char(found_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00\"Z\"')"),
        ("host", "(SELECT host FROM fleet.stream AS s WHERE s.stream = leak.stream)"),
        ("task", "coalesce(task_id, '')"),
        (
            "rule",
            "CASE rule_key WHEN 'root_ended' THEN 'its root had ended' ELSE 'its instance is dead' END",
        ),
        ("program", "program"),
    ] {
        for since in ["365days", "100h", "75h", "6h 30m"] {
            let sums = json(&database, &["report", "--by", by, "--since", since, "--json"]);
            let sums = sums["groups"].as_array().expect("groups");
            let lines: Vec<String> = sums
                .iter()
                .map(|sum| {
                    let fields =
                        ["leaks", "orphans", "strays", "unregistered", "survived", "rss_bytes"];
                    let fields = fields.map(|field| sum[field].to_string()).join("|");
                    let hours = sum["process_hours"].as_f64().expect("a number");
                    format!("{}|{fields}|{hours:.4}", sum["key"].as_str().expect("a key"))
                })
                .collect();
            let window =
                since.replace("days", " days").replace('h', " hours").replace('m', " minutes");
            let count = database.rows(&format!(
                "SELECT {key}, count(*), sum((kind = 'orphan')::int), sum((kind = 'stray')::int),
                   sum((kind = 'unregistered')::int), sum((outcome = 'survived')::int), coalesce(sum(rss_bytes), 0),
                   (sum(age_ms) / 3600000.0)::numeric(20, 4)
                 FROM fleet.leak WHERE found_at >= now() - interval '{window}' GROUP BY 1"
            ));
            let (mut lines, mut counted) =
                (lines, count.lines().map(str::to_owned).collect::<Vec<_>>());
            lines.sort();
            counted.sort();
            assert_eq!(lines, counted, "by {by}, since {since}");
        }
    }
}

#[test]
fn all_but_the_largest_tasks_of_a_day_are_one_sum() {
    let Some(database) = three_hosts() else { return };
    // 25 more tasks in one day of one host, of which five are not among the 20 largest.
    let more = "INSERT INTO fleet.leak (stream, id, print, process, root, verified, task_id, pid, kind, rule, rule_key, evidence,
          evidence_key, found_at, age_ms, outcome, program, command)
        SELECT 1, 1000 + n, 1, 1, 1, true, 'many-' || lpad((n % 25)::text, 2, '0'), 1, 'orphan', 'r', 'other', 'e', 'e',
          date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '13 days 1 hour' + interval '1 day', 1, 'term', 'p', '[]'
        FROM generate_series(0, 74) AS n";
    database.client().batch_execute(more).expect("inserted");
    printed(fleet(&["maintain", "--to", &database.url()]));
    let sums = json(&database, &["report", "--by", "task", "--json"]);
    let sums = sums["groups"].as_array().expect("groups");
    let of = |key: &str| sums.iter().find(|sum| sum["key"] == key).map(|sum| sum["leaks"].clone());
    assert_eq!(of("many-00"), Some(3.into()));
    assert_eq!(of("(all others)"), Some(15.into()));
    let all: u64 = sums.iter().map(|sum| sum["leaks"].as_u64().expect("a number")).sum();
    assert_eq!(all, 120 + 75, "no leak is left out");
    // Neither those without a task nor the others are a task.
    let page = printed(from(&database, &["report", "--format", "html"]));
    let tasks = sums.len() - 2;
    let tile = format!(
        "<dt>Tasks</dt><dd data-value=\"{tasks}\">{tasks}+</dd><dd class=\"note\">5 programs</dd>"
    );
    assert!(page.contains(&tile), "{tile}");
}

/// With as many tasks as leaks, a full report would be unreadable and slow.
#[test]
fn the_largest_tasks_and_programs_of_the_fleet_are_named() {
    let Some(database) = three_hosts() else { return };
    let orphans: u64 = database
        .rows("SELECT sum((kind = 'orphan')::int) FROM fleet.leak")
        .parse()
        .expect("a number");
    for by in ["task", "program"] {
        let many = format!(
            "INSERT INTO fleet.leak_top (stream, day, dimension, rest, key, leaks, orphans, strays, unregistered, survived, age_ms,
              rss_bytes, last_found_at)
            SELECT 1, date '2020-01-01' + n / 20, '{by}', false, 'many-' || n, 100 + n, 100, n, 0, 1, 3600000, 5, timestamptz '2020-01-01'
            FROM generate_series(1, 1100) AS n
            UNION ALL SELECT 1, date '2020-01-01', '{by}', true, '', 5000, 0, 5000, 0, 0, 1, 1, timestamptz '2020-01-01'"
        );
        database.client().batch_execute(&many).expect("inserted");
        let sums = json(&database, &["report", "--by", by, "--json"]);
        let sums = sums["groups"].as_array().expect("groups");
        assert_eq!(sums.len(), 1001);
        let all = |field: &str| {
            sums.iter().map(|sum| sum[field].as_u64().expect("a number")).sum::<u64>()
        };
        let leaks = (101..=1200).sum::<u64>();
        assert_eq!(all("leaks"), 120 + leaks + 5000, "no leak is left out");
        assert_eq!(all("orphans"), orphans + 1100 * 100);
        // The 100 smallest of the many, all of the three hosts, and those that the host had not
        // named.
        let others = sums.iter().find(|sum| sum["key"] == "(all others)").expect("others");
        assert_eq!(others["leaks"], (101..=200).sum::<u64>() + 120 + 5000);
        assert_eq!(
            others["last_found_at"],
            sums.iter().map(|sum| sum["last_found_at"].as_str()).max().flatten().expect("a time")
        );
        assert!(
            sums.iter().any(|sum| sum["key"] == "many-101")
                && !sums.iter().any(|sum| sum["key"] == "many-100")
        );
    }
}

#[test]
fn a_report_always_names_silent_hosts_and_lost_rows() {
    let Some(database) = three_hosts() else { return };
    for words in [&["report"][..], &["report", "--by", "host"], &["report", "--since", "0s"]] {
        let text = printed(from(&database, words));
        assert!(is_plain(&text), "{text:?}");
        let lines: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(
            lines[1],
            "Silent: 1 of 3 ledgers, of which nothing is known since then: web-2 (3h00m)."
        );
        assert_eq!(
            lines[0],
            "Lost: rows pruned before they were shipped: 1204 (db-1: 1204); open rows that are not in their ledgers any more: 3 \
             (db-1: 3); shipped again from the start after a restore: 1 (db-1: 1)."
        );
    }
    let report = json(&database, &["report", "--json"]);
    assert_eq!(report["leaks"].as_array().map(Vec::len), Some(120));
    assert_eq!(
        (&report["silent"][0]["host"], &report["lost"][0]["gap"]),
        (&"web-2".into(), &1200.into())
    );
    let clear =
        "UPDATE fleet.stream SET seen_at = now(), gap = 0, leak_gap = 0, lost = 0, restarts = 0";
    database.client().batch_execute(clear).expect("set");
    let text = printed(from(&database, &["report", "--by", "day"]));
    assert!(text.ends_with("\nSilent: none (ledgers: 3).\nLost: nothing.\n"), "{text}");
    database.client().batch_execute("DELETE FROM fleet.stream").expect("deleted");
    let text = printed(from(&database, &["report"]));
    assert!(text.contains("Silent: no host ships to this fleet, so nothing is known."), "{text}");
}

#[test]
fn a_check_prints_one_line_and_sets_the_exit_code() {
    let Some(database) = three_hosts() else { return };
    let check = |code: i32, words: &[&str]| {
        let output = from(&database, &[&["check"], words].concat()).output().expect("it runs");
        let line = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let silent = check(2, &[]);
    assert!(
        silent.starts_with("CRITICAL: silent ledgers: 1 of 3 (web-2: 3h00m); processes that could not be ended: 1 (db-1: 1)")
    );
    check(2, &["--max-silence", "4h"]);
    let well = ["--max-silence", "4h", "--max-survivors", "1"];
    assert_eq!(check(0, &well), "OK: ledgers 3, live processes 9, survived 1\n");
    let leaks = check(1, &[&well[..], &["--max-leaks", "5/12h 30m"]].concat());
    assert_eq!(leaks, "WARNING: leaks within 12h30m: 6\n");
    check(0, &[&well[..], &["--max-leaks", "6/12h 30m"]].concat());
    refused(2, from(&database, &["check", "--max-leaks", "6"]));
    let mut away = fleet(&["check", "--from", "postgresql://u@127.0.0.1:1/d"]);
    let away = away.output().expect("it runs");
    assert_eq!(away.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&away.stdout).starts_with("CRITICAL: cannot connect to"));
}

#[test]
fn one_scrape_contains_all_hosts() {
    need!("promtool");
    let Some(database) = three_hosts() else { return };
    let page = printed(from(&database, &["metrics", "--since", "13h"]));
    metrics::check(&page);
    let ledger = "33333333333333333333333333333333";
    for sample in [
        &format!("procledger_fleet_survivors{{host=\"db-1\",ledger=\"{ledger}\"}} 1\n"),
        &format!("procledger_fleet_gap_rows{{host=\"db-1\",ledger=\"{ledger}\"}} 1204\n"),
        &format!("procledger_fleet_skew_seconds{{host=\"db-1\",ledger=\"{ledger}\"}} -60\n"),
        "procledger_fleet_leaks{host=\"web-1\"} 2\n",
        "procledger_fleet_window_seconds 46800\n",
    ] {
        assert!(page.contains(sample), "{sample}: {page}");
    }
}

#[test]
fn history_is_kept_as_long_as_the_fleet_is_configured_to() {
    let Some(database) = three_hosts() else { return };
    printed(fleet(&["init", "--to", &database.url(), "--keep", "4weeks"]));
    let row = |id: u32, started: u32, ended: u32| {
        format!(
            "INSERT INTO fleet.ended (stream, id, print, pid, origin, containment, program, command, started_at, ended_at, end_reason)
             VALUES (1, {id}, 1, 1, 'spawned', 'none', 'p', '[]', now() - interval '{started} days', now() - interval '{ended} days', 'exited');"
        )
    };
    // Long ago; long ago, with an end that was not; in a week without a partition; recently.
    let rows =
        row(1, 60, 59) + &row(2, 61, 2) + &row(3, 400, 399) + &row(4, 401, 1) + &row(5, 1, 0);
    database.client().batch_execute(&rows).expect("inserted");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'fleet.ended'::regclass";
    let before: u32 = database.rows(partitions).parse().expect("a number");
    // What a host that was taken over has made of its own sums.
    database.client().batch_execute("DELETE FROM fleet.leak_day").expect("deleted");
    let sums = "SELECT sum(leaks) FROM fleet.leak_day";
    let done = printed(fleet(&["maintain", "--to", &database.url()]));
    assert!(done.contains("sums were recomputed: 3"), "{done}");
    assert_eq!(database.rows("SELECT id FROM fleet.ended ORDER BY id"), "2\n4\n5");
    assert_eq!(database.rows(sums), "120");
    let after: u32 = database.rows(partitions).parse().expect("a number");
    assert!(after < before, "{after} of {before} partitions");
    let again = printed(fleet(&["maintain", "--to", &database.url()]));
    assert!(again.starts_with("partitions created: 0, dropped: 0; rows deleted: 0;"), "{again}");
    let reader = format!("looker-{}", database.name());
    let sql = format!("CREATE ROLE \"{reader}\" LOGIN IN ROLE fleet_read");
    database.client().batch_execute(&sql).expect("made");
    refused(1, fleet(&["maintain", "--to", &database.url_as(&reader)]));
}

#[test]
fn a_host_that_is_given_up_is_closed_and_keeps_its_history() {
    let Some(database) = three_hosts() else { return };
    let mark = "SELECT mark FROM fleet.stream WHERE host = 'web-2'";
    let before = database.rows(mark);
    let done = printed(fleet(&["forget", "web-2", "--to", &database.url()]));
    assert_eq!(done, "gave up web-2: ledgers 1; lost: processes 3, leaks 1; the history stays\n");
    assert_ne!(database.rows(mark), before, "a shipper begins again");
    let counts =
        "SELECT lost, lost_leaks, (SELECT count(*) FROM fleet.live AS l WHERE l.stream = s.stream),
                    (SELECT count(*) FROM fleet.leak AS l WHERE l.stream = s.stream)
                  FROM fleet.stream AS s WHERE host = 'web-2'";
    assert_eq!(database.rows(counts), "3|1|0|40");
    let lost = "SELECT sum(leaks) FROM fleet.leak_day WHERE outcome = 'lost'";
    assert_eq!(database.rows(lost), "1", "the sums follow");
    let text = printed(from(&database, &["report", "--by", "host"]));
    assert!(text.contains("Silent: none (ledgers: 2)."), "{text}");
    assert!(printed(from(&database, &["hosts"])).contains("given up"));
    // A later batch makes it an ordinary host again.
    database
        .client()
        .batch_execute("UPDATE fleet.stream SET seen_at = clock_timestamp()")
        .expect("set");
    assert!(printed(from(&database, &["report"])).contains("Silent: none (ledgers: 3)."));
    let error = refused(1, fleet(&["forget", "web-9", "--to", &database.url()]));
    assert!(error.contains("the fleet has no host `web-9`"), "{error}");
}

#[test]
fn the_page_has_a_column_for_the_host_and_the_notes_on_missing_data() {
    need!("chromium");
    let Some(database) = three_hosts() else { return };
    let place = Place::new();
    let file = place.path().join("fleet.html");
    let rename = format!(
        "UPDATE fleet.stream SET host = '{}' WHERE host = 'web-2'",
        HOSTILE.replace('\'', "''")
    );
    database.client().batch_execute(&rename).expect("renamed");
    let mut report = from(&database, &["report", "--format", "html", "--since", "6days", "-o"]);
    report.arg(&file);
    assert_eq!(printed(report), "");
    let text = std::fs::read_to_string(&file).expect("UTF-8");
    assert!(is_plain(&text));
    let mut browser = Browser::start(&place);
    browser.open(&file);
    let mut texts = |selector: &str| -> Vec<String> {
        let texts =
            format!("[...document.querySelectorAll('{selector}')].map(it => it.textContent)");
        serde_json::from_value(browser.evaluate(&texts)).expect("texts")
    };
    let lines = texts("#hosts li");
    assert!(
        lines[0].starts_with("Silent: 1 of 3 ledgers") && lines[0].contains("<img src=x"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("Lost: rows pruned before they were shipped: 1204"), "{lines:?}");
    assert_eq!(texts("main table")[..].len(), 6, "by host and four more, and the leaks");
    let leaks = json(&database, &["leaks", "--since", "6days", "--json"]);
    let hosts: Vec<String> = (leaks.as_array().expect("leaks").iter())
        .map(|leak| {
            leak["host"]
                .as_str()
                .expect("text")
                .replace('\u{1b}', "\\x1b")
                .replace('\u{202e}', "\\u{202e}")
        })
        .collect();
    assert_eq!(texts("#leaks tbody td[data-label=Host]"), hosts);
    let by_host = json(&database, &["report", "--by", "host", "--since", "6days", "--json"]);
    let counts: Vec<String> = (by_host["groups"].as_array().expect("groups").iter())
        .map(|group| group["leaks"].to_string())
        .collect();
    assert_eq!(texts("#by-host tbody td[data-label=Leaks]"), counts);
    let title = browser.evaluate("document.title");
    assert!(title.as_str().expect("a title").starts_with("Leak report: "), "{title}");
    browser.resize(360, 740);
    let widest = browser.evaluate("document.documentElement.scrollWidth");
    assert!(widest.as_u64().expect("a number") <= 360, "{widest}");
    assert_eq!(browser.complaints(), [""; 0]);
}
