//! The schema documents itself for users who open a ledger with `sqlite3`.

use crate::support::{Host, Place};

#[test]
fn the_schema_is_commented_and_every_view_works() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.spawn("left", "sleep 3600 & wait");
    host.crash();
    let mut host = Host::start(&place, "");
    host.spawn("runs", "exec sleep 3600");
    host.ask("health");

    // What `.schema` shows.
    let schema = place.sqlite3("SELECT sql FROM sqlite_schema");
    for words in [
        "-- One run of a program that opened this ledger for writing.",
        "-- One tracked process: a root that was spawned or registered, or a descendant found below one.",
        "-- One run of the health or the orphan check, recorded even when it found nothing.",
        "-- Something that outlived its owner, and what became of it.",
        "-- What is tracked now, longest-running first.",
    ] {
        assert!(schema.contains(words), "no `{words}` in {schema}");
    }
    let views = place.sqlite3("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name");
    let views: Vec<&str> = views.lines().collect();
    let expected =
        ["history", "leaks", "leaks_by_day", "leaks_by_task", "passes", "running", "survivors"];
    assert!(expected.iter().all(|name| views.contains(name)), "{views:?}");
    for view in &views {
        place.sqlite3(&format!("SELECT * FROM {view}"));
    }
    let iso = "GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9].[0-9][0-9][0-9]Z'";
    for (view, column) in [
        ("running", "started"),
        ("history", "started"),
        ("history", "ended"),
        ("leaks", "found"),
        ("leaks_by_task", "last_found"),
        ("passes", "started"),
    ] {
        let query = format!("SELECT count(*) > 0, min({column} {iso}) FROM {view}");
        assert_eq!(place.sqlite3(&query), "1|1", "{view}.{column}");
    }
    let strict = "SELECT count(*) FROM pragma_table_list WHERE type = 'table' AND schema = 'main'
                  AND name NOT LIKE 'sqlite%' AND NOT strict";
    assert_eq!(place.sqlite3(strict), "0");
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
    assert_eq!(place.sqlite3("PRAGMA foreign_key_check"), "");
    host.stop();
}
