//! Schemas of other versions, and the page that documents the fleet.

use std::{fs, path::Path};

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship, try_ship},
    fleet, printed,
    scene::{Scene, scene},
    server::database,
    ship_copies::shipper,
};
use crate::support::Place;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// A later version has added columns: this version still ships and reads, until the schema declares
/// it too old.
#[test]
fn a_newer_fleet_can_be_shipped_to_and_read() {
    let Some(scene) = scene() else { return };
    scene.check();
    let newer: String = [
        "stream",
        "live",
        "ended",
        "leak",
        "leak_day",
        "leak_hour",
        "leak_top",
        "pass_day",
        "meta",
    ]
    .map(|table| format!("ALTER TABLE fleet.{table} ADD COLUMN later text DEFAULT 'x';"))
    .concat();
    let mut owner = scene.database.client();
    owner.batch_execute(&(newer + "UPDATE fleet.meta SET version = 3")).expect("upgraded");
    scene.check();
    let from = |words: &[&str]| {
        let mut command = fleet(words);
        command.env("PROCLEDGER_FLEET", scene.database.url());
        command
    };
    for words in [&["hosts"][..], &["ps"], &["leaks"], &["report", "--by", "task"], &["metrics"]] {
        printed(from(words));
    }
    owner.batch_execute("UPDATE fleet.meta SET oldest_shipper = 3").expect("set");
    let refused = scene.ship_to(&scene.database.url());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("update the program"), "{error}");
    let error = super::refused(1, from(&["hosts"]));
    assert!(error.contains("update the program"), "{error}");
}

/// A fleet as the previous version created it, with a host that has shipped to it.
#[test]
fn a_fleet_of_the_previous_version_is_upgraded() {
    let (Some(database), Some(new)) = (database(), database()) else { return };
    init(&new);
    let before = file("tests/fixtures/fleet-1.sql").replace("owner;", &format!("{};", new.owner()));
    database.client().batch_execute(&before).unwrap_or_else(|error| panic!("{error:?}"));
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    ledger.work();
    let early = try_ship(&database, &place.ledger());
    let error = String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && error.contains("`procledger fleet init`"), "{error}");

    let done = printed(fleet(&["init", "--to", &database.url()]));
    assert!(done.starts_with("upgraded the schema `fleet` from version 1 to 2, in"), "{done}");
    assert!(done.contains("35c42d774ae44085b44dcd1c49174acc"), "it is the same fleet: {done}");
    let hours = "SELECT hour AT TIME ZONE 'UTC', leaks, strays, survived, age_ms, rss_bytes FROM fleet.leak_hour ORDER BY 1";
    assert_eq!(
        database.rows(hours),
        "2026-11-27 18:00:00|1|1|0|5|10\n2026-11-27 19:00:00|2|2|1|10|50"
    );
    for is_the_same in [
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
         WHERE table_schema = 'fleet' AND table_name NOT LIKE 'ended_%' ORDER BY 1, 2",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'fleet' AND tablename NOT LIKE 'ended_%' ORDER BY 1",
        "SELECT tablename, policyname, roles, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2",
        "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants
         WHERE table_schema = 'fleet' AND grantee LIKE 'fleet_%' AND table_name NOT LIKE 'ended_%' ORDER BY 1, 2, 3",
        "SELECT table_name, column_name, grantee, privilege_type FROM information_schema.column_privileges
         WHERE table_schema = 'fleet' AND grantee = 'fleet_ship' AND table_name NOT LIKE 'ended_%' ORDER BY 1, 2, 3, 4",
    ] {
        assert_eq!(database.rows(is_the_same), new.rows(is_the_same), "{is_the_same}");
    }
    ship(&database, &place.ledger());
    fleet_equals_ledger(&database, &place.ledger());
    let report = ["report", "--by", "hour", "--since", "2026-11-27", "--from", &database.url()];
    assert!(printed(fleet(&report)).contains("2026-11-27T19:00Z"));
}

/// Changes that a later schema may make: each leaves the statements of this version valid.
const UPGRADES: [&str; 4] = [
    "ALTER TABLE fleet.stream ADD COLUMN later text; ALTER TABLE fleet.live ADD COLUMN later integer NOT NULL DEFAULT 7;
     ALTER TABLE fleet.ended ADD COLUMN later bigint; ALTER TABLE fleet.leak ADD COLUMN later timestamptz DEFAULT now()",
    "ALTER TABLE fleet.leak_day ALTER COLUMN leaks TYPE bigint; ALTER TABLE fleet.leak_top ALTER COLUMN leaks TYPE bigint",
    "CREATE INDEX later ON fleet.ended (stream, ended_at); CREATE INDEX later_leak ON fleet.leak (rule_key)",
    "CREATE TABLE fleet.later_table (stream integer PRIMARY KEY); DROP INDEX fleet.leak_found",
];

/// A shipper that is connected has prepared its statements before the upgrade.
#[test]
fn a_fleet_can_be_upgraded_while_it_is_shipped_to() {
    let Some(scene) = scene() else { return };
    let mut shipper = shipper(&scene.database, &scene.path());
    shipper.ship().expect("shipped");
    for (version, upgrade) in (3..).zip(UPGRADES) {
        let sql = format!("{upgrade}; UPDATE fleet.meta SET version = {version}");
        scene.database.client().batch_execute(&sql).expect("upgraded");
        scene.ledger.work();
        shipper.ship().unwrap_or_else(|error| panic!("{upgrade}: {error}"));
        fleet_equals_ledger(&scene.database, &scene.path());
        // Nothing may be upgraded by a version that does not know it.
        let init = super::refused(1, fleet(&["init", "--to", &scene.database.url()]));
        assert!(init.contains("update the program"), "{init}");
    }
    drop(shipper);
    scene.check();
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}

/// What a version must not do before all shippers are of a later one, and what an older fleet
/// lacks: a column that is written.
#[test]
fn a_fleet_without_a_column_is_refused_and_gets_its_rows_later() {
    let columns = [
        ("stream", "skew_ms"),
        ("live", "program"),
        ("ended", "end_evidence"),
        ("leak", "verified"),
        ("leak_day", "rule_key"),
        ("leak_hour", "survived"),
        ("leak_top", "survived"),
        ("pass_day", "longest_gap_ms"),
    ];
    let Some(scene) = scene() else { return };
    let mut shipper = shipper(&scene.database, &scene.path());
    shipper.ship().expect("shipped");
    for (table, column) in columns {
        let rename = |scene: &Scene, from: &str, to: &str| {
            let sql = format!("ALTER TABLE fleet.{table} RENAME COLUMN {from} TO {to}");
            scene.database.client().batch_execute(&sql).expect("renamed");
        };
        scene.ledger.work();
        let before = scene.place.sqlite3("SELECT process, leak FROM shipment");
        rename(&scene, column, "away");
        for _ in 0..2 {
            let error = shipper.ship().expect_err("refused").to_string();
            assert!(error.contains("`procledger fleet init`"), "{table}.{column}: {error}");
        }
        let set = |oldest: u32| {
            let sql = format!("UPDATE fleet.meta SET oldest_shipper = {oldest}");
            scene.database.client().batch_execute(&sql).expect("set");
        };
        set(3);
        let error = shipper.ship().expect_err("refused").to_string();
        assert!(error.contains("update the program"), "{table}.{column}: {error}");
        assert_eq!(scene.place.sqlite3("SELECT process, leak FROM shipment"), before);
        set(1);
        rename(&scene, "away", column);
        shipper.ship().expect("shipped");
        fleet_equals_ledger(&scene.database, &scene.path());
    }
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}

/// The queries of the dashboard, with the macros of Grafana replaced as it does.
#[test]
fn the_queries_of_the_dashboard_run() {
    let Some(scene) = scene() else { return };
    scene.check();
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("docs/grafana-fleet.json")).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: std::collections::BTreeSet<_> =
        panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert!(ids.len() == panels.len() && panels.len() > 5);
    let reader = format!("grafana-{}", scene.database.name());
    let sql = format!("CREATE ROLE \"{reader}\" LOGIN IN ROLE fleet_read");
    scene.database.client().batch_execute(&sql).expect("made");
    let mut reader = scene.database.client_as(&reader);
    for panel in panels {
        let query = panel["targets"][0]["rawSql"].as_str().expect("a query");
        let mut sql = query.to_owned();
        while let Some((before, rest)) = sql.split_once("$__timeFilter(") {
            // The column may be a call itself.
            let mut depth = 1;
            let end = rest.find(|char| {
                depth += i32::from(char == '(') - i32::from(char == ')');
                depth == 0
            });
            let end = end.expect("a closing parenthesis");
            sql = format!(
                "{before}{} BETWEEN now() - interval '7 days' AND now(){}",
                &rest[..end],
                &rest[end + 1..]
            );
        }
        reader.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[test]
fn the_page_lists_every_metric_and_every_subcommand() {
    let Some(scene) = scene() else { return };
    let page = file("docs/fleet.md");
    let mut metrics = fleet(&["metrics"]);
    metrics.env("PROCLEDGER_FLEET", scene.database.url());
    let figures = printed(metrics);
    let names = figures.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let names: Vec<&str> = names.collect();
    assert_eq!(names.len(), page.matches("| `procledger_fleet_").count());
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
    let help = printed(fleet(&["--help"]));
    let (_, list) = help.split_once("\nCommands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        assert!(page.contains(&format!("fleet {name}")), "{name}");
    }
}
