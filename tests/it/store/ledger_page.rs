//! docs/ledger.md is true: it names every table, view and column, each recipe works in a real
//! `sqlite3`, and Datasette has the same recipes.

use std::{fs, path::Path, process::Command};

use rusqlite::Connection;

use crate::support::{Host, Place, need};

#[path = "../../../benches/history/ledger.rs"]
mod past;

/// Enough that every recipe has rows to show.
const TWO_DAYS: past::Past =
    past::Past { processes: 3_000, leaks: 150, passes: 500, tasks: 40, instances: 5, days: 2 };

pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) sql: String,
}

pub(crate) fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a page below a heading, up to the next one of its level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let level = heading.split(' ').next().expect("a heading");
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let below = &page[start + heading.len() + 2..];
    let end = [format!("\n{level} "), format!("\n{} ", &level[1..])];
    let end = end.iter().filter(|end| end.len() > 3).filter_map(|end| below.find(end)).min();
    &below[..end.unwrap_or(below.len())]
}

/// Name and query of each recipe, in order.
pub(crate) fn recipes() -> Vec<Recipe> {
    let page = doc("ledger.md");
    let mut recipes = Vec::new();
    for part in section(&page, "## Recipes").split("\n### ").skip(1) {
        let name = part.lines().next().expect("a heading").to_owned();
        let (_, sql) = part.split_once("```sql\n").unwrap_or_else(|| panic!("{name}: no query"));
        let (sql, _) = sql.split_once("\n```").expect("a closed block");
        recipes.push(Recipe { name, sql: sql.to_owned() });
    }
    recipes
}

/// A ledger with rows for each recipe.
pub(crate) fn with_a_past() -> Place {
    let place = Place::new();
    past::make(&place.ledger(), TWO_DAYS).expect("a past");
    // Never seen in such a short history: a process that could not be ended, a task that always
    // fails, a kill by a user.
    let ledger = Connection::open(place.ledger()).expect("a ledger");
    ledger
        .execute_batch(
            "UPDATE process SET exit_code = 1, end_reason = 'exited' WHERE task_id = 'task-7';
             UPDATE process SET end_reason = 'killed', asked_by = 'uid 0 (procledger kill)', exit_code = NULL,
               exit_signal = 9 WHERE id = (SELECT max(id) FROM process WHERE task_id = 'task-8');
             UPDATE process SET state = 'survived', ended_at = NULL, end_reason = NULL, exit_code = NULL,
               last_error = 'it is in uninterruptible sleep' WHERE id = 1020",
        )
        .expect("a few rows");
    place
}

/// The output of a real `sqlite3`, opened as the page describes.
fn ask(place: &Place, mode: &str, sql: &str) -> String {
    let output = Command::new("sqlite3")
        .args(["-readonly", mode, "-cmd", ".timeout 5000"])
        .args(["-cmd", ".parameter set :task \"'task-7'\""])
        .arg(place.ledger())
        .arg(sql)
        .output()
        .expect("sqlite3 is installed");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_recipe_works_in_sqlite3() {
    need!("sqlite3");
    let place = with_a_past();
    let recipes = recipes();
    assert!(recipes.len() >= 10, "{}", recipes.len());
    let mut host = Host::start(&place, "");
    host.spawn("runs", "exec sleep 3600");
    for Recipe { name, sql } in &recipes {
        let rows: serde_json::Value = serde_json::from_str(&ask(&place, "-json", sql))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let rows = rows.as_array().expect("a list");
        let first = rows.first().and_then(|row| row.as_object());
        let first = first.unwrap_or_else(|| panic!("{name} has nothing to show"));
        let boxed = ask(&place, "-box", sql);
        let header = boxed.lines().nth(1).expect("a header");
        for column in first.keys() {
            assert!(header.contains(column.as_str()), "{name}: no {column} in {header}");
        }
        assert!(boxed.lines().count() >= rows.len() + 4, "{name}: {boxed}");
    }
    host.stop();
}

#[test]
fn the_page_lists_every_key() {
    let page = doc("ledger.md");
    let section = section(&page, "## Keys");
    let rules = procledger::RuleKey::ALL.iter().map(|key| key.as_str());
    let evidence = procledger::EvidenceKey::ALL.iter().map(|key| key.as_str());
    let rows = |text: &str| section.matches(&format!("| `{text}` |")).count();
    let mut expected = std::collections::HashMap::new();
    rules.chain(evidence).for_each(|key| *expected.entry(key).or_insert(0) += 1);
    for (key, count) in &expected {
        assert_eq!(rows(key), *count, "{key}");
    }
    let listed = section.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(listed, expected.values().sum::<usize>(), "and no other");
}

#[test]
fn the_first_command_of_the_page_shows_running_processes() {
    need!("sqlite3");
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.spawn("build-17", "exec sleep 3600");
    let page = doc("ledger.md");
    let (_, command) = section(&page, "## Opening it").split_once("```sh\n").expect("a command");
    let (command, _) = command.split_once("```").expect("a closed block");
    let mut shell = Command::new("sh");
    let shown = shell.args(["-euc", command]).current_dir(place.path()).output().expect("a shell");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("│ build-17 │"), "{shown}");
    host.stop();
}

#[test]
fn the_recipes_show_the_actual_rows() {
    need!("sqlite3");
    let place = with_a_past();
    let show = |name: &str| -> serde_json::Value {
        let recipes = recipes();
        let recipe = recipes.iter().find(|recipe| recipe.name == name).expect("a recipe");
        serde_json::from_str(&ask(&place, "-json", &recipe.sql)).expect("JSON")
    };
    assert_eq!(show("what_survived")[0]["last_error"], "it is in uninterruptible sleep");
    assert_eq!(show("never_ends_well")[0]["task_id"], "task-7");
    assert_eq!(show("never_ends_well")[0]["exit_codes"], "1");
    assert_eq!(show("who_ended_it")[0]["asked_by"], "uid 0 (procledger kill)");
    let most = show("what_leaks_most");
    let leaks = |row: &serde_json::Value| row["leaks"].as_i64().expect("a number");
    let most = most.as_array().expect("a list");
    assert!(most.windows(2).all(|two| leaks(&two[0]) >= leaks(&two[1])), "most first: {most:?}");
    let hours = show("leaks_an_hour");
    let sum: i64 = hours.as_array().expect("a list").iter().map(leaks).sum();
    assert!((140..=150).contains(&sum), "150 leaks in two days, but for the edge: {sum}");
}

/// Every minute of the last day has a pass, except for half an hour of it.
#[test]
fn a_gap_between_passes_is_found() {
    need!("sqlite3");
    let place = Place::new();
    past::make(&place.ledger(), past::Past { passes: 2 * 24 * 60, ..TWO_DAYS }).expect("a past");
    let ledger = Connection::open(place.ledger()).expect("a ledger");
    let recipes = recipes();
    let silent = recipes.iter().find(|recipe| recipe.name == "was_the_checker_running");
    let silent = &silent.expect("a recipe").sql;
    assert_eq!(ask(&place, "-json", silent), "", "it ran throughout");
    let hours_ago = |hours: f64| {
        let ms = std::time::Duration::from_secs_f64(hours * 3600.0).as_millis();
        chrono::Utc::now().timestamp_millis() - i64::try_from(ms).expect("small")
    };
    let gone = "DELETE FROM pass WHERE started_at BETWEEN ?1 AND ?2";
    let gone = ledger.execute(gone, (hours_ago(3.0), hours_ago(2.5))).expect("deleted");
    assert!((29..=31).contains(&gone), "{gone}");
    let rows: serde_json::Value =
        serde_json::from_str(&ask(&place, "-json", silent)).expect("JSON");
    assert_eq!(rows.as_array().expect("a list").len(), 1, "{rows}");
    let seconds = rows[0]["seconds"].as_i64().expect("a number");
    assert!((1_740..=1_980).contains(&seconds), "half an hour: {seconds}");
}

#[test]
fn every_table_view_and_column_is_explained() {
    let place = Place::new();
    Host::start(&place, "").stop();
    let page = doc("ledger.md");
    let names = place.sqlite3(
        "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'",
    );
    assert!(names.lines().count() >= 11, "{names}");
    for line in names.lines() {
        let (name, _) = line.split_once('|').expect("a name and a type");
        let explained = section(&page, &format!("### {name}"));
        let columns = place.sqlite3(&format!("SELECT name FROM pragma_table_info('{name}')"));
        for column in columns.lines() {
            assert!(explained.contains(&format!("`{column}`")), "{name}.{column} is not explained");
        }
    }
}

#[test]
fn datasette_has_the_same_recipes() {
    let yaml = doc("datasette.yaml");
    let recipes = recipes();
    for Recipe { name, sql } in &recipes {
        let (_, part) = yaml.split_once(&format!("\n      {name}:\n")).unwrap_or_else(|| {
            panic!("docs/datasette.yaml has no {name}");
        });
        let lines = sql.lines().flat_map(|line| ["          ", line, "\n"]);
        let query = format!("        sql: |-\n{}", lines.collect::<String>());
        let (before, _) = part.split_once(&query).unwrap_or_else(|| panic!("{name} differs"));
        assert!(!before.contains("sql:"), "{name} differs");
        assert!(before.contains("title:") && before.contains("description:"), "{name}");
        assert_eq!(before.contains("- task"), sql.contains(":task"), "{name}: its parameter");
    }
    assert_eq!(yaml.matches("sql: |-").count(), recipes.len(), "one that the page lacks");
}
