//! What a host can do in the fleet's database, right by right: it can only add.

use postgres::{Client, error::SqlState};

use super::{
    fleet, printed, refused,
    server::{Database, database},
};
use crate::support::Place;

/// The columns of a row that a test inserts, with the values of a process that has ended.
const ENDED: &str = "(stream, id, print, pid, origin, containment, program, command, started_at, ended_at, end_reason)
    SELECT stream, 1, 1, 1, 'spawned', 'none', 'p', '[]', TIMESTAMPTZ '2026-11-01', now(), 'exited' FROM fleet.stream";
const LIVE: &str = "(stream, id, print, pid, state, origin, containment, survive, program, command, started_at)
    SELECT stream, 2, 1, 2, 'running', 'spawned', 'none', false, 'p', '[]', now() FROM fleet.stream";
const LEAK: &str = "(stream, id, print, process, root, verified, pid, kind, rule, rule_key, evidence, evidence_key, found_at, age_ms,
      outcome, program, command)
    SELECT stream, 1, 1, 1, 1, true, 1, 'orphan', 'r', 'r', 'e', 'e', TIMESTAMPTZ '2026-11-01', 1, 'survived', 'p', '[]'
    FROM fleet.stream";

/// Two enrolled hosts, each with a stream and a row in each table. Returns the login of each.
fn two_hosts(database: &Database) -> [String; 2] {
    printed(fleet(&["init", "--to", &database.url()]));
    ["web-1", "web-2"].map(|host| {
        let host = format!("{host}-{}", database.name());
        printed(fleet(&["enroll", "--to", &database.url(), &host]));
        let login = format!("procledger-{host}");
        let mut client = database.client_as(&login);
        let sql = format!(
            "INSERT INTO fleet.stream (ledger, host, boot, mark, process, leak, version)
             VALUES (gen_random_uuid(), '{host}', gen_random_uuid(), gen_random_uuid(), 0, 0, '0.2.0');
             INSERT INTO fleet.ended {ENDED} ON CONFLICT DO NOTHING;
             INSERT INTO fleet.live {LIVE} ON CONFLICT (stream, id) DO UPDATE SET state = excluded.state;
             INSERT INTO fleet.leak {LEAK} ON CONFLICT (stream, found_at, id, print) DO UPDATE
               SET outcome = excluded.outcome, died_after_ms = excluded.died_after_ms WHERE leak.outcome IN ('survived', 'lost');
             INSERT INTO fleet.leak_day SELECT stream, '2026-11-01', 'orphan', 'r', 'survived', 1, 1, 0, now() FROM fleet.stream;
             INSERT INTO fleet.leak_hour SELECT stream, 1, TIMESTAMPTZ '2026-11-01', now(), 1, 0, 1, 0, 0, 1 FROM fleet.stream;
             INSERT INTO fleet.leak_top SELECT stream, '2026-11-01', 'task', false, '', 1, 1, 0, 0, 1, 1, 0, now() FROM fleet.stream;
             INSERT INTO fleet.pass_day SELECT stream, '2026-11-01', 'health', 1, 0, 0, now() FROM fleet.stream"
        );
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{error:?}"));
        login
    })
}

fn is_denied(client: &mut Client, statement: &str) -> bool {
    let error = client.batch_execute(statement).expect_err(statement);
    error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

#[test]
fn a_host_can_only_add() {
    let Some(database) = database() else { return };
    let [login, other] = two_hosts(&database);
    let mut host = database.client_as(&login);
    // Of two streams it sees its own; the literal is the other one.
    let streams = format!(
        "SELECT min(stream), max(stream), count(*) FROM fleet.stream WHERE login = '{other}'"
    );
    let theirs = database.rows(&streams);
    let (theirs, _) = theirs.split_once('|').expect("a row");

    for statement in [
        // History, its own included.
        "SELECT 1 FROM fleet.ended",
        "SELECT id FROM fleet.ended",
        "UPDATE fleet.ended SET exit_code = 0",
        "DELETE FROM fleet.ended",
        "TRUNCATE fleet.ended",
        "SELECT 1 FROM fleet.ended_default",
        "INSERT INTO fleet.ended_default SELECT",
        "DELETE FROM fleet.ended_default",
        "INSERT INTO fleet.ended (stream, id) VALUES (1, 1) RETURNING id",
        "SELECT command FROM fleet.leak",
        "SELECT rule, evidence FROM fleet.leak",
        "SELECT * FROM fleet.leak",
        "UPDATE fleet.leak SET found_at = now()",
        "UPDATE fleet.leak SET kind = 'stray'",
        "DELETE FROM fleet.leak",
        "TRUNCATE fleet.leak, fleet.leak_day, fleet.leak_hour, fleet.leak_top, fleet.pass_day, fleet.live",
        // Who it is, and what only the owner decides.
        "UPDATE fleet.stream SET login = 'another'",
        "UPDATE fleet.stream SET ledger = gen_random_uuid()",
        "UPDATE fleet.stream SET made_at = now()",
        "UPDATE fleet.stream SET forgotten_at = now()",
        "DELETE FROM fleet.stream",
        "UPDATE fleet.meta SET version = 2",
        "DELETE FROM fleet.meta",
        "INSERT INTO fleet.stream (ledger, host, boot, login, mark, process, leak, version)
         VALUES (gen_random_uuid(), 'h', gen_random_uuid(), 'another', gen_random_uuid(), 0, 0, '0')",
        // The schema.
        "CREATE TABLE fleet.another (n integer)",
        "ALTER TABLE fleet.ended DISABLE ROW LEVEL SECURITY",
        "DROP POLICY ship ON fleet.ended",
        "DROP TABLE fleet.ended",
        "CREATE TRIGGER t BEFORE INSERT ON fleet.ended EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SET ROLE fleet_read",
        &format!("SET ROLE {}", database.owner()),
        &format!("SET SESSION AUTHORIZATION {}", database.owner()),
    ] {
        assert!(is_denied(&mut host, statement), "{statement}");
    }
    // Without the right to grant this is a warning.
    host.batch_execute("GRANT SELECT ON fleet.ended TO fleet_ship").expect("no effect");
    assert!(is_denied(&mut host, "SELECT 1 FROM fleet.ended"));
    // The rows of another stream: it cannot add to them, and does not see them.
    for (table, row) in [("ended", ENDED), ("live", LIVE), ("leak", LEAK)] {
        let row = row.replace("SELECT stream,", &format!("SELECT {theirs},"));
        let statement = format!("INSERT INTO fleet.{table} {row}");
        assert!(is_denied(&mut host, &statement), "{statement}");
        if table == "live" {
            let replaced =
                format!("{statement} ON CONFLICT (stream, id) DO UPDATE SET state = 'ending'");
            assert!(is_denied(&mut host, &replaced), "{replaced}");
        }
    }
    for table in ["stream", "live", "leak_day", "leak_hour", "leak_top", "pass_day"] {
        let rows = host.query_one(&format!("SELECT count(stream) FROM fleet.{table}"), &[]);
        assert_eq!(rows.expect(table).get::<_, i64>(0), 1, "{table}");
    }
    let seen = host.query_one("SELECT count(id) FROM fleet.leak", &[]).expect("its own");
    assert_eq!(seen.get::<_, i64>(0), 1);
    for table in ["live", "leak_day", "leak_hour", "leak_top", "pass_day"] {
        for statement in [
            format!("DELETE FROM fleet.{table} WHERE stream = {theirs}"),
            format!("UPDATE fleet.{table} SET stream = stream WHERE stream = {theirs}"),
        ] {
            assert_eq!(
                host.execute(&statement, &[]).expect("allowed on its own"),
                0,
                "{statement}"
            );
        }
        let taken = format!("UPDATE fleet.{table} SET stream = {theirs}");
        assert!(is_denied(&mut host, &taken), "{taken}");
    }
    let close = "UPDATE fleet.leak SET outcome = 'term', died_after_ms = 3";
    assert_eq!(host.execute(close, &[]).expect("its survivor"), 1);
    assert_eq!(
        host.execute("UPDATE fleet.leak SET outcome = 'gone'", &[]).expect("none"),
        0,
        "final"
    );
    assert_eq!(
        database.rows("SELECT outcome, count(*) FROM fleet.leak GROUP BY 1 ORDER BY 1"),
        "survived|1\nterm|1"
    );
    assert_eq!(database.rows("SELECT count(*) FROM fleet.ended"), "2");
}

/// Rows that are sent again from the start, changed or not: nothing changes, and nothing is denied.
#[test]
fn rows_that_are_shipped_again_change_nothing() {
    let Some(database) = database() else { return };
    let [login, _] = two_hosts(&database);
    let mut host = database.client_as(&login);
    host.execute("UPDATE fleet.leak SET outcome = 'kill', died_after_ms = 3", &[]).expect("done");
    let leak = format!(
        "INSERT INTO fleet.leak {LEAK} ON CONFLICT (stream, found_at, id, print) DO UPDATE SET outcome = excluded.outcome,
           died_after_ms = excluded.died_after_ms WHERE leak.outcome IN ('survived', 'lost')"
    );
    assert_eq!(host.execute(&leak, &[]).expect("allowed"), 0);
    let ended = format!("INSERT INTO fleet.ended {ENDED} ON CONFLICT DO NOTHING");
    assert_eq!(host.execute(&ended, &[]).expect("allowed"), 0);
    assert_eq!(database.rows("SELECT count(*) FROM fleet.leak WHERE outcome = 'kill'"), "1");
}

#[test]
fn a_reader_can_read_everything_and_change_nothing() {
    let Some(database) = database() else { return };
    two_hosts(&database);
    let reader = format!("reader-{}", database.name());
    let sql = format!("CREATE ROLE \"{reader}\" LOGIN IN ROLE fleet_read");
    database.client().batch_execute(&sql).expect("made");
    let mut client = database.client_as(&reader);
    for table in
        ["stream", "live", "ended", "leak", "leak_day", "leak_hour", "leak_top", "pass_day"]
    {
        let rows =
            client.query_one(&format!("SELECT count(*) FROM fleet.{table}"), &[]).expect(table);
        assert_eq!(rows.get::<_, i64>(0), 2, "{table}");
        for change in ["DELETE FROM", "TRUNCATE"] {
            assert!(is_denied(&mut client, &format!("{change} fleet.{table}")), "{table}");
        }
        assert!(is_denied(&mut client, &format!("UPDATE fleet.{table} SET stream = 1")), "{table}");
    }
    assert!(is_denied(&mut client, "UPDATE fleet.meta SET version = 2"));
}

/// A host may write anything about itself; the reports on all hosts must still work.
#[test]
fn rows_of_a_hostile_host_break_no_report() {
    let Some(database) = database() else { return };
    let [login, _] = two_hosts(&database);
    let mut host = database.client_as(&login);
    let with = |row: &str, from: &str, to: &str| {
        assert!(row.contains(from), "{row}");
        format!("{} ON CONFLICT DO NOTHING", row.replace(from, to))
    };
    let leak_day = "INSERT INTO fleet.leak_day SELECT stream, '2026-11-02', 'orphan', 'r', 'term', 1, 2, 3, now() FROM fleet.stream";
    let leak_hour = "INSERT INTO fleet.leak_hour SELECT stream, 1, TIMESTAMPTZ '2026-11-02', now(), 2, 3, 1, 0, 0, 1 FROM fleet.stream";
    let leak_top = "INSERT INTO fleet.leak_top SELECT stream, '2026-11-02', 'task', false, '', 1, 1, 0, 0, 1, 2, 3, now() FROM fleet.stream";
    for statement in [
        "UPDATE fleet.stream SET seen_at = 'infinity'".to_owned(),
        "UPDATE fleet.stream SET health_at = '-infinity', orphan_at = 'infinity'".to_owned(),
        "UPDATE fleet.stream SET gap = -1".to_owned(),
        "UPDATE fleet.stream SET lost = 9223372036854775807".to_owned(),
        with(&format!("INSERT INTO fleet.live {LIVE}"), "now()", "'infinity'"),
        with(&format!("INSERT INTO fleet.ended {ENDED}"), "now()", "'infinity'"),
        with(&format!("INSERT INTO fleet.leak {LEAK}"), "TIMESTAMPTZ '2026-11-01'", "'infinity'"),
        with(&format!("INSERT INTO fleet.leak {LEAK}"), "TIMESTAMPTZ '2026-11-01', 1", "now(), -1"),
        with(leak_day, "1, 2, 3", "-1, 2, 3"),
        with(leak_hour, "TIMESTAMPTZ '2026-11-02'", "'infinity'"),
        with(leak_hour, "1, 0, 0, 1", "1, -1, 0, 1"),
        with(leak_top, "1, 1, 0", "-1, 1, 0"),
        "UPDATE fleet.pass_day SET passes = 9223372036854775807".to_owned(),
        "UPDATE fleet.pass_day SET failed = -1".to_owned(),
        with(leak_day, "'2026-11-02'", "'infinity'"),
        with(leak_day, "now()", "'-infinity'"),
        with(leak_top, "'2026-11-02'", "'infinity'"),
        with(leak_top, "2, 3", "-2, 3"),
        "UPDATE fleet.pass_day SET last_at = 'infinity'".to_owned(),
    ] {
        let error = host.batch_execute(&statement).expect_err(&statement);
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{statement}: {error:?}");
    }
    // Each may be, and their sum is larger than any number.
    let largest = format!(
        "INSERT INTO fleet.leak {};
         INSERT INTO fleet.leak_day SELECT stream, '2026-11-02', 'orphan', 'r', 'term', 1, 9223372036854775807, 9223372036854775807,
           now() FROM fleet.stream;
         INSERT INTO fleet.leak_hour SELECT stream, 1, TIMESTAMPTZ '2026-11-02' + interval '1 minute', now(), 9223372036854775807,
           9223372036854775807, 1, 0, 0, 1 FROM fleet.stream;
         INSERT INTO fleet.leak_top SELECT stream, '2026-11-02', dimension, false, '', 1, 1, 0, 0, 1, 9223372036854775807, 9223372036854775807,
           now() FROM fleet.stream, (VALUES ('task'), ('program')) AS of (dimension)",
        LEAK.replace("stream, 1, 1, 1, 1, true", "stream, n, 1, 1, 1, true")
            .replace("TIMESTAMPTZ '2026-11-01', 1,", "now(), 9223372036854775807,")
            .replace("FROM fleet.stream", "FROM fleet.stream, generate_series(2, 4) AS n"),
    );
    host.batch_execute(&largest.replace("'2026-11-02'", "'2026-11-03'")).expect("allowed");
    host.batch_execute(&largest.replace("generate_series(2, 4)", "generate_series(5, 7)"))
        .expect("allowed");
    let url = database.url();
    let report = |words: &[&str]| printed(fleet(&[words, &["--from", &url]].concat()));
    let all = || {
        for by in ["day", "hour", "host", "task", "rule", "program"] {
            assert!(report(&["report", "--by", by]).contains("LEAKS"));
        }
        for words in
            [&["hosts"][..], &["ps"], &["leaks"], &["metrics"], &["report", "--format", "html"]]
        {
            assert!(!report(words).is_empty());
        }
    };
    all();
    printed(fleet(&["maintain", "--to", &url]));
    all();
}

/// Before PostgreSQL 15 every user may create objects in `public`, and an operator there may match
/// a statement better than a built-in one.
#[test]
fn operators_that_another_user_created_in_public_are_not_used() {
    let Some(database) = database() else { return };
    two_hosts(&database);
    let better = "CREATE FUNCTION public.taken(numeric, integer) RETURNS numeric LANGUAGE plpgsql AS 'BEGIN RAISE ''taken''; END';
        CREATE OPERATOR public.* (LEFTARG = numeric, RIGHTARG = integer, FUNCTION = public.taken)";
    database.client().batch_execute(better).expect("made");
    let silence = "SELECT extract(epoch FROM now() - seen_at) * 1000 FROM fleet.stream";
    assert!(database.client().batch_execute(silence).is_err(), "it would be called");
    assert_eq!(printed(fleet(&["hosts", "--from", &database.url()])).lines().count(), 3);
}

#[test]
fn a_login_that_is_not_a_host_of_the_fleet_is_left_unchanged() {
    let Some(database) = database() else { return };
    printed(fleet(&["init", "--to", &database.url()]));
    let host = format!("taken-{}", database.name());
    database.client().batch_execute(&format!("CREATE ROLE \"procledger-{host}\"")).expect("made");
    let error = refused(1, fleet(&["enroll", "--to", &database.url(), &host]));
    assert!(error.contains("is not the login of a host"), "{error}");
    let long = "h".repeat(53);
    for name in ["", "a\nb", &long] {
        refused(2, fleet(&["enroll", "--to", &database.url(), name]));
    }
    let error = refused(
        1,
        fleet(&["enroll", "--to", &database.url_as(&format!("procledger-{host}")), "h"]),
    );
    assert!(error.contains("cannot connect"), "{error}");
}

#[test]
fn the_file_with_the_secret_of_a_host_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let Some(database) = database() else { return };
    let place = Place::new();
    printed(fleet(&["init", "--to", &database.url()]));
    let host = format!("web'1 {}", database.name());
    let file = place.path().join("fleet.env");
    std::fs::write(&file, "old").expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    for _ in 0..2 {
        let mut enroll = fleet(&["enroll", "--to", &database.url(), &host, "-o"]);
        enroll.arg(&file);
        assert_eq!(printed(enroll), "", "the secret is only in the file");
        let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // A shell reads it as systemd does.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", ". \"$0\" && echo \"$PROCLEDGER_FLEET $PGPASSWORD\""]).arg(&file);
    let read = printed(shell);
    let (url, password) = read.trim_end().split_once(' ').expect("both");
    assert!(url.contains("web%271%20fleet_") && password.len() == 64, "{read}");
    let hash = format!(
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'procledger-{}'",
        host.replace('\'', "''")
    );
    let before = database.rows(&hash);
    assert!(before.starts_with("SCRAM-SHA-256$4096:"));
    // The host keeps its password where the file with a new one cannot be written.
    for (file, reason) in [
        (place.path().join("missing/fleet.env"), "No such file or directory (os error 2)"),
        (place.path().to_owned(), "it is a folder"),
    ] {
        let mut enroll = fleet(&["enroll", "--to", &database.url(), &host, "-o"]);
        enroll.arg(&file);
        let error = refused(1, enroll);
        assert_eq!(error, format!("procledger: failed to write {}: {reason}\n", file.display()));
    }
    assert_eq!(database.rows(&hash), before);
}
