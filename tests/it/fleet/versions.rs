//! Schemas of other versions, and the page that documents the fleet.

use std::{fs, path::Path};

use super::{fleet, printed, scene::scene};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// A later version has added columns: this one ships and reads on, until the schema says that it is too old.
#[test]
fn a_newer_fleet_is_shipped_to_and_read() {
    let Some(scene) = scene() else { return };
    scene.check();
    let newer: String =
        ["stream", "live", "ended", "leak", "leak_day", "leak_top", "pass_day", "meta"]
            .map(|table| format!("ALTER TABLE fleet.{table} ADD COLUMN later text DEFAULT 'x';"))
            .concat();
    let mut owner = scene.database.client();
    owner.batch_execute(&(newer + "UPDATE fleet.meta SET version = 2")).expect("upgraded");
    scene.check();
    let from = |words: &[&str]| {
        let mut command = fleet(words);
        command.env("PROCLEDGER_FLEET", scene.database.url());
        command
    };
    for words in [&["hosts"][..], &["ps"], &["leaks"], &["report", "--by", "task"], &["metrics"]] {
        printed(from(words));
    }
    owner.batch_execute("UPDATE fleet.meta SET oldest_shipper = 2").expect("set");
    let refused = scene.ship_to(&scene.database.url());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("update the program"), "{error}");
    let error = super::refused(1, from(&["hosts"]));
    assert!(error.contains("update the program"), "{error}");
}

/// The queries of the dashboard, with the macros of Grafana replaced as it does.
#[test]
fn the_dashboards_queries_run() {
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
fn the_page_lists_every_figure_and_every_subcommand() {
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
