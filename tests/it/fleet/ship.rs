//! Shipping to a real database: each row once, even if the ledger or the database is interrupted or
//! restored.

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship, try_ship},
    fleet, printed,
    scene::{copy, scene},
    server::database,
};
use crate::support::{Place, sqlite3};

#[test]
fn the_fleet_equals_its_ledgers() {
    let Some(first) = scene() else { return };
    let places = [Place::new(), Place::new()];
    let others = places.each_ref().map(|place| Ledger::create(&place.ledger()));
    for round in 0..6 {
        first.ledger.work();
        for (other, place) in others.iter().zip(&places) {
            other.work();
            if round % 2 == 0 {
                ship(&first.database, &place.ledger());
            }
        }
        first.ship();
    }
    for place in &places {
        ship(&first.database, &place.ledger());
        fleet_equals_ledger(&first.database, &place.ledger());
    }
    first.check();
    assert_eq!(
        first.stream("gap, leak_gap, lost, lost_leaks, restarts"),
        "0|0|0|0|0\n".repeat(3).trim_end()
    );
}

#[test]
fn many_batches_are_shipped_at_once() {
    let Some(scene) = scene() else { return };
    scene.ledger.start(4_500);
    scene.ledger.end(4_000);
    scene.ledger.leak(2_100);
    scene.check();
}

#[test]
fn a_ledger_that_was_restored_is_shipped_again() {
    let Some(scene) = scene() else { return };
    for batches in [1, 2, 5] {
        scene.ledger.work();
        scene.ship();
        let backup = scene.place.path().join(format!("backup-{batches}.db"));
        copy(&scene.path(), &backup);
        for _ in 0..batches {
            scene.ledger.work();
            scene.ship();
        }
        copy(&backup, &scene.path());
        // The other timeline continues, and ends what the first one has ended.
        scene.ledger.end(2);
        scene.ledger.work();
        scene.check();
    }
    assert_eq!(scene.stream("restarts, gap"), "3|0");
    let lost: u32 = scene.stream("lost").parse().expect("a number");
    assert!(lost > 0, "what ran only on the first time line");
}

/// The database is set back, as from a dump, while the ledger goes on.
#[test]
fn a_fleet_that_was_restored_is_shipped_again() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let backup = scene.database.dump();
    for _ in 0..3 {
        scene.ledger.work();
        scene.ship();
    }
    scene.database.restore(&backup);
    scene.ledger.work();
    scene.check();
    assert_eq!(scene.stream("restarts, gap, lost"), "1|0|0");
    // Both are set back, each to another moment.
    scene.ledger.work();
    let ledger = scene.place.path().join("backup.db");
    copy(&scene.path(), &ledger);
    scene.ship();
    scene.ledger.work();
    scene.ship();
    scene.database.restore(&backup);
    copy(&ledger, &scene.path());
    scene.ledger.work();
    scene.check();
}

/// The ledger is set back by exactly one batch, which looks like an answer that was lost.
#[test]
fn a_ledger_that_is_set_back_by_one_batch_is_not_taken_for_a_lost_answer() {
    let Some(scene) = scene() else { return };
    scene.ship();
    let backup = scene.place.path().join("backup.db");
    copy(&scene.path(), &backup);
    scene.ledger.start(3);
    scene.ship();
    copy(&backup, &scene.path());
    scene.ledger.start(7);
    scene.check();
    assert_eq!(scene.stream("restarts, lost"), "1|3");
}

/// The mark was committed, and the shipper was killed before it was in the ledger.
#[test]
fn a_lost_answer_is_not_taken_for_a_restored_ledger() {
    let Some(scene) = scene() else { return };
    scene.ship();
    let shipment = sqlite3(&scene.path(), "SELECT mark, process, leak FROM shipment");
    let [mark, process, leak] = shipment.split('|').collect::<Vec<_>>()[..] else {
        panic!("{shipment}")
    };
    scene.ledger.work();
    scene.ship();
    scene
        .ledger
        .sql(&format!("UPDATE shipment SET mark = '{mark}', process = {process}, leak = {leak}"));
    scene.ledger.work();
    scene.check();
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}

/// Unshipped rows are pruned only if the size limit requires it; then they are counted.
#[test]
fn the_size_limit_prunes_unshipped_rows_and_the_gap_is_counted() {
    let Some(scene) = scene() else { return };
    scene.ship();
    scene.ledger.start(50);
    scene.ledger.end(50);
    scene.ledger.sql(
        "UPDATE process SET ended_at = ended_at - 864000000, started_at = started_at - 864000000",
    );
    let pruned = scene.place.procledger(&["prune", "--older-than", "1day"]);
    assert!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
    assert_eq!(
        sqlite3(&scene.path(), "SELECT count(*) FROM process WHERE task_id LIKE 'task-%'"),
        "50"
    );
    // As the monitor of a host does whose ledger exceeds its limit.
    scene.ledger.sql("DELETE FROM process WHERE id BETWEEN 11 AND 30");
    scene.check();
    assert_eq!(scene.stream("gap, lost"), "20|0");
    scene.check();
    assert_eq!(scene.stream("gap, lost"), "20|0", "counted once");
}

/// Rows are recorded neither in the order of `ended_at` nor in that of `found_at`.
#[test]
fn rows_with_clock_steps_and_late_ends_are_shipped_once() {
    let Some(scene) = scene() else { return };
    scene.ledger.start(6);
    scene.ship();
    for step in ["- 864000000", "+ 864000000", "- 315360000000"] {
        scene.ledger.start(3);
        scene.ledger.leak(3);
        scene.ledger.end(4);
        scene.ledger.sql(&format!(
            "UPDATE process SET ended_at = ended_at {step} WHERE state = 'ended' AND id = (SELECT max(id) FROM process WHERE state = 'ended');
             UPDATE leak SET found_at = found_at {step} WHERE id = (SELECT max(id) FROM leak)"
        ));
        scene.check();
    }
}

#[test]
fn hostile_text_is_shipped_as_data() {
    let Some(scene) = scene() else { return };
    scene.ledger.start(2);
    let hostile = "'; DROP SCHEMA fleet CASCADE; --\u{1b}[2J\u{202e}{a,\"b\",NULL}\\x00";
    scene.ledger.sql(&format!(
        "UPDATE process SET task_id = '{}' || id, command = json_array('{0}', 'NULL') WHERE state = 'running'",
        hostile.replace('\'', "''")
    ));
    scene.ledger.leak(2);
    scene.check();
    let found =
        scene.database.rows("SELECT count(*) FROM fleet.live WHERE task_id LIKE '%DROP SCHEMA%'");
    assert_eq!(found, "2");
}

/// A process may give itself any name, also one that is too long for an index.
#[test]
fn a_leak_of_a_program_with_a_very_long_name_is_shipped() {
    let Some(scene) = scene() else { return };
    scene.ledger.start(2);
    // Random, since PostgreSQL compresses what it stores.
    scene.ledger.sql(
        "UPDATE process SET command = json_array('/bin/' || hex(randomblob(127)) || 'é' || hex(randomblob(9000)), 'x') WHERE state = 'running'",
    );
    scene.ledger.leak(2);
    scene.check();
    let names = "SELECT DISTINCT octet_length(key) FROM fleet.leak_top WHERE dimension = 'program'";
    assert_eq!(scene.database.rows(names), "254");
    let whole = "SELECT min(octet_length(command)) > 18000 FROM fleet.leak";
    assert_eq!(scene.database.rows(whole), "t");
}

#[test]
fn two_shippers_cannot_ship_one_ledger() {
    let Some(scene) = scene() else { return };
    scene.ship();
    let lock =
        std::fs::File::open(scene.place.path().join("ledger.db-ship.lock")).expect("it is there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    let second = try_ship(&scene.database, &scene.path());
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another shipper has the ledger"));
    drop(lock);
    scene.check();
}

#[test]
fn excluded_commands_and_history_are_not_shipped() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    let url = scene.database.url();
    let words =
        ["ship", "--to", &url, "--once", "--no-commands", "--no-history", "--host", "web-1"];
    assert!(scene.place.procledger(&words).status.success());
    let count = |sql: &str| scene.database.rows(sql);
    assert_eq!(count("SELECT count(*) FROM fleet.ended"), "0");
    assert_eq!(count("SELECT DISTINCT command FROM fleet.live"), "[\"worker\"]");
    assert_eq!(count("SELECT count(*) > 0 FROM fleet.leak"), "t");
    assert_eq!(scene.stream("host"), "web-1");
}

#[test]
fn all_named_ledgers_are_shipped() {
    let Some(scene) = scene() else { return };
    let other = scene.place.path().join("other.db");
    drop(Ledger::create(&other));
    let other = other.display().to_string();
    let url = scene.database.url();
    // Besides that of `--db`.
    let shipped = scene.place.procledger(&["ship", "--to", &url, "--once", &other]);
    assert!(shipped.status.success(), "{}", String::from_utf8_lossy(&shipped.stderr));
    assert_eq!(scene.stream("count(*) OVER ()"), "2\n2");
    let printed = scene.place.procledger(&["ship", "--to", "-", "--once", &other]);
    assert_eq!(printed.status.code(), Some(2));
    assert!(printed.stdout.is_empty());
    for host in ["", "a\nb"] {
        let words = ["ship", "--to", &url, "--once", "--host", host];
        assert_eq!(scene.place.procledger(&words).status.code(), Some(2), "{host:?}");
    }
    assert_eq!(scene.stream("count(*) OVER ()"), "2\n2");
}

/// As the previous version created it, whose program would refuse a migrated ledger.
#[test]
fn a_ledger_of_an_older_schema_is_refused_and_left_unchanged() {
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    let older = rusqlite::Connection::open(place.ledger()).expect("opens");
    for sql in [
        "PRAGMA journal_mode = WAL; PRAGMA application_id = 1886151783; PRAGMA user_version = 3",
        include_str!("../../../migrations/01-ledger/up.sql"),
        include_str!("../../../migrations/02-cgroup/up.sql"),
        include_str!("../../../migrations/03-views/up.sql"),
        include_str!("../../../migrations/04-ledger/up.sql"),
        include_str!("../../../migrations/05-keeper/up.sql"),
        include_str!("../../../migrations/06-keys/up.sql"),
        "UPDATE ledger SET schema = 6",
    ] {
        older.execute_batch(sql).expect("valid");
    }
    let refused = try_ship(&database, &place.ledger());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("has schema 6"), "{error}");
    assert_eq!(sqlite3(&place.ledger(), "SELECT schema FROM ledger"), "6");
    let url = database.url();
    let migrated = place.procledger(&["ship", "--to", &url, "--once", "--migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    assert_eq!(database.rows("SELECT count(*) FROM fleet.stream"), "1");
}

/// With the rights of a host alone, through all that a shipper does.
#[test]
fn an_enrolled_host_ships_with_its_own_rights() {
    let Some(scene) = scene() else { return };
    let host = format!("web-{}", scene.database.name());
    printed(fleet(&["enroll", "--to", &scene.database.url(), &host]));
    let url = scene.database.url_as(&format!("procledger-{host}"));
    let ship = || {
        let shipped = scene.ship_to(&url);
        assert!(shipped.status.success(), "{}", String::from_utf8_lossy(&shipped.stderr));
    };
    scene.ledger.work();
    ship();
    let backup = scene.place.path().join("backup.db");
    copy(&scene.path(), &backup);
    for _ in 0..3 {
        scene.ledger.work();
        ship();
    }
    // What ran and what had survived is lost.
    copy(&backup, &scene.path());
    scene.ledger.work();
    ship();
    fleet_equals_ledger(&scene.database, &scene.path());
    assert_eq!(scene.stream("restarts, lost > 0, lost_leaks > 0"), "1|t|t");
}

/// Its stream belongs to the login that has shipped it before, and no other login sees it.
#[test]
fn a_host_with_another_login_reports_how_to_move_its_stream() {
    let Some(scene) = scene() else { return };
    let urls = ["web'1", "web-2"].map(|host| {
        let host = format!("{host}-{}", scene.database.name());
        printed(fleet(&["enroll", "--to", &scene.database.url(), &host]));
        scene.database.url_as(&format!("procledger-{}", host.replace('\'', "%27")))
    });
    let [first, second] = &urls;
    scene.ledger.work();
    assert!(scene.ship_to(second).status.success());
    let refused = scene.ship_to(first);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    let (_, advice) = error.split_once("as the owner: ").expect("what helps");
    let (statement, _) = advice.split_once(';').expect("a statement");
    scene.database.client().batch_execute(statement).unwrap_or_else(|error| panic!("{error:?}"));
    scene.ledger.work();
    assert!(scene.ship_to(first).status.success());
    fleet_equals_ledger(&scene.database, &scene.path());
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}

#[test]
fn the_status_shows_how_far_a_ledger_was_shipped() {
    let Some(scene) = scene() else { return };
    let status = |words: &[&str]| scene.place.procledger(&[&["ship", "--status"], words].concat());
    let never = status(&[]);
    assert_eq!(never.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&never.stdout).contains("was never shipped"));
    assert_eq!(scene.ship_to("postgresql://u@127.0.0.1:1/d").status.code(), Some(1));
    let never = String::from_utf8(status(&[]).stdout).expect("text");
    assert!(never.contains("was never shipped; last error: cannot connect to"), "{never}");
    let json = |words: &[&str]| -> serde_json::Value {
        let printed =
            String::from_utf8(status(&[&["--json"], words].concat()).stdout).expect("text");
        serde_json::from_str(&printed).expect("JSON")
    };
    let never = &json(&[])[0];
    assert!(never["fleet"].is_null() && never["processes"].is_null(), "{never}");
    assert!(never["last_error"].as_str().expect("an error").contains("cannot connect to"));
    // An error that is cut in the middle of a character.
    let lock = scene.place.path().join("ledger.db-ship.lock");
    std::fs::write(&lock, &"é".repeat(3000).as_bytes()[1..]).expect("written");
    assert!(String::from_utf8_lossy(&status(&[]).stdout).contains("last error: "));
    scene.ship();
    scene.ledger.start(3);
    let shipped = status(&[]);
    let text = String::from_utf8_lossy(&shipped.stdout).into_owned();
    assert!(shipped.status.success() && text.contains("3 processes and 0 leaks to ship"), "{text}");
    assert_eq!(status(&["--max-lag", "0s"]).status.code(), Some(1));
    // One that cannot be read hides no other.
    let missing = status(&["missing.db"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&missing.stdout).lines().count(), 1);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("missing.db"));
    scene.database.client().batch_execute("ALTER SCHEMA fleet RENAME TO away").expect("renamed");
    assert_eq!(try_ship(&scene.database, &scene.path()).status.code(), Some(1));
    let lines = json(&[]);
    let error = lines[0]["last_error"].as_str().expect("an error");
    assert!(error.contains("fleet init"), "{error}");
    assert_eq!(lines[0]["processes"], 3);
}
