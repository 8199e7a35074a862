//! Databases and roles whose settings are not the defaults.

use super::{
    comparison::{fleet_equals_ledger, init},
    fleet, printed,
    scene::scene,
};

/// What may be set for a database or a role, and changes how text is read, printed or looked up.
const SETTINGS: [&str; 12] = [
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'America/St_Johns'",
    "standard_conforming_strings = off",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "array_nulls = off",
    "transform_null_equals = on",
    "client_min_messages = 'debug5'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "search_path = hostile, pg_catalog",
];

#[test]
fn settings_of_the_database_do_not_change_the_results() {
    let Some(scene) = scene() else { return };
    let name = scene.database.name();
    let settings = SETTINGS.map(|setting| format!("ALTER DATABASE {name} SET {setting};")).concat();
    let hostile = "CREATE SCHEMA hostile;
        CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''taken''; END';
        CREATE FUNCTION hostile.to_char(date, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''taken''; END';
        CREATE TABLE hostile.pg_roles (rolname text); CREATE TABLE hostile.schemata (schema_name text);";
    scene.database.client().batch_execute(&(hostile.to_owned() + &settings)).expect("set");
    assert!(scene.database.client().batch_execute("SELECT now()").is_err(), "it would be called");
    init(&scene.database);
    for _ in 0..3 {
        scene.ledger.work();
        scene.ship();
    }
    let url = scene.database.url();
    printed(fleet(&["maintain", "--to", &url]));
    for by in ["day", "hour", "host", "task", "rule", "program"] {
        let report = printed(fleet(&["report", "--by", by, "--from", &url]));
        assert!(report.contains("Lost: nothing."), "{by}: {report}");
    }
    for words in [&["hosts"][..], &["ps"], &["leaks"], &["metrics"]] {
        assert!(!printed(fleet(&[words, &["--from", &url]].concat())).is_empty(), "{words:?}");
    }
    let host = format!("web-{name}");
    printed(fleet(&["enroll", &host, "--to", &url]));
    // Queries of the test itself use the defaults again.
    let reset = format!("ALTER DATABASE {name} RESET ALL");
    scene.database.client().batch_execute(&reset).expect("reset");
    fleet_equals_ledger(&scene.database, &scene.path());
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
    scene.database.client().batch_execute(&settings).expect("set");
    let done = printed(fleet(&["forget", &host_name(), "--to", &url]));
    assert!(done.contains("ledgers 1;"), "{done}");
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Like a standby, or a database that its owner has made read-only for a while.
#[test]
fn a_database_that_is_read_only_is_read_and_shipped_to_later() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let set = |value: &str| {
        let name = scene.database.name();
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
        let mut client = scene.database.client();
        client.batch_execute("SET default_transaction_read_only = off").expect("set");
        client.batch_execute(&sql).expect("set");
    };
    set("on");
    scene.ledger.work();
    let refused = scene.ship_to(&scene.database.url());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.lines().count() == 1, "{error}");
    assert!(error.contains("the server is a standby, or default_transaction_read_only"), "{error}");
    for words in [&["hosts"][..], &["ps"], &["report", "--by", "hour"], &["check"]] {
        printed(fleet(&[words, &["--from", &scene.database.url()]].concat()));
    }
    set("off");
    scene.check();
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}
