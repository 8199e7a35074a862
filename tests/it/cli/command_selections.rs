//! What `report --task`, `prune --dry-run` and `ps` show of a ledger: some tasks, what would be
//! deleted, whose owner is dead.

use crate::{
    cli::command::{Running, bytes_of, run},
    support::{Host, Place, is_alive},
};

const UP: &str = "echo $$; exec sleep 300";

/// A ledger with leaks of these tasks, which `reap` has ended.
fn with_leaks(place: &Place, tasks: &[&str]) {
    for task in tasks {
        Running::start(place, task, &[], UP).crash();
        run(place, &["reap"]).expect(0);
    }
}

fn keys(place: &Place, args: &[&str]) -> Vec<String> {
    let groups = run(place, &[&["report", "--format", "json"], args].concat()).expect(0).json();
    let groups = groups.as_array().expect("groups").iter();
    groups.map(|group| group["key"].as_str().expect("a key").to_owned()).collect()
}

#[test]
fn a_report_of_some_tasks_has_only_their_leaks_in_every_format() {
    let place = Place::new();
    with_leaks(&place, &["a/1", "a/2", "b", "a/1"]);
    let listed = |task: &str| {
        let leaks = run(&place, &["report", "--task", task, "--format", "json"]).expect(0).json();
        let leaks = leaks.as_array().expect("leaks").iter();
        leaks.map(|leak| leak["task_id"].as_str().expect("a task").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("b"), ["b"]);
    assert_eq!(listed("a/*"), ["a/1", "a/2", "a/1"], "the newest first");
    assert_eq!(listed("c*"), [""; 0]);
    assert_eq!(keys(&place, &["--by", "task", "--task", "a/*"]), ["a/1", "a/2"]);
    for by in ["hour", "day", "task", "rule", "program"] {
        let all = ["report", "--by", by, "--format", "csv"];
        let same = [&all[..], &["--task", "*"]].concat();
        assert_eq!(run(&place, &all).expect(0).out, run(&place, &same).expect(0).out, "{by}");
    }
    let csv = run(&place, &["report", "--task", "a/?", "--format", "csv"]).expect(0).out;
    assert_eq!(csv.lines().count(), 4, "{csv}");
    let table = run(&place, &["report", "--task", "b"]).expect(0);
    assert!(table.out.contains("its instance is dead") && !table.out.contains("a/1"), "{table:?}");
    assert!(table.err.starts_with("1 of these trees was contained by a session only"), "{table:?}");
    let page = run(&place, &["report", "--task", "a/*", "--format", "html"]).expect(0).out;
    assert!(page.contains("a/2") && !page.contains(">b<"), "the page shows another task");
    let none = run(&place, &["report", "--task", "missing"]).expect(0);
    assert!(none.out.starts_with("No leaks of task missing found in "), "{none:?}");
    let json = run(&place, &["report", "--task", "b", "--json"]).expect(0).json();
    assert_eq!(json, run(&place, &["report", "--task", "b", "--format", "json"]).expect(0).json());
}

/// The tree of a killed `run` lives on, and no pass has seen that yet.
#[test]
fn a_report_before_the_reap_mentions_tasks_without_an_owner() {
    let place = Place::new();
    let owned = Running::start(&place, "owned", &[], UP);
    assert_eq!(run(&place, &["report"]).expect(0).err, "");
    let mut host = Host::start(&place, "no-monitor containment=session");
    host.spawn("left", "exec sleep 300");
    host.spawn_as("survive", "kept", "exec sleep 300");
    host.crash();
    for args in [&["report"][..], &["report", "--json"], &["report", "--by", "task"]] {
        let answer = run(&place, args).expect(0);
        assert!(
            answer.err.starts_with("1 task runs without an owner: `procledger reap`"),
            "{answer:?}"
        );
    }
    run(&place, &["reap"]).expect(0);
    let after = run(&place, &["report"]).expect(0);
    assert!(after.out.contains("left") && !after.err.contains("without an owner"), "{after:?}");
    owned.crash();
}

#[test]
fn a_dry_run_of_prune_counts_and_changes_nothing() {
    let place = Place::new();
    with_leaks(&place, &["old", "older"]);
    // While another process has the ledger open its reader writes nothing.
    let running = Running::start(&place, "going", &[], UP);
    let count = |age: &str| {
        let out = run(&place, &["prune", "--dry-run", "--older-than", age]).expect(0).out;
        let rows = out.strip_prefix("nothing was changed; would delete up to ").expect("a count");
        rows.strip_suffix(" rows\n").expect("rows").parse::<u64>().expect("a number")
    };
    let rows =
        || place.sqlite3("SELECT (SELECT count(*) FROM process) + (SELECT count(*) FROM pass)");
    let before = rows();
    assert_eq!(count("1h"), 0);
    assert!(count("0s") >= 2);
    assert_eq!(rows(), before);
    assert!(is_alive(running.said.parse().expect("a pid")));
    let missing = Place::new();
    let refused = run(&missing, &["prune", "--dry-run", "--older-than", "1h"]).expect(1);
    assert!(refused.complaint().contains("no ledger at"), "{refused:?}");
    assert!(bytes_of(missing.path()).is_empty());
}

#[test]
fn ps_marks_the_tasks_of_a_dead_owner() {
    let place = Place::new();
    let owned = Running::start(&place, "owned", &[], UP);
    let mut host = Host::start(&place, "no-monitor containment=session");
    host.spawn("left", "exec sleep 300");
    host.spawn_as("survive", "kept", "exec sleep 300");
    assert!(!run(&place, &["ps"]).expect(0).out.contains("STATE"), "all have an owner");
    host.crash();
    let table = run(&place, &["ps"]).expect(0).out;
    let line = |task: &str| {
        table
            .lines()
            .find(|line| line.starts_with(task))
            .unwrap_or_else(|| panic!("{task}: {table}"))
    };
    assert!(line("left").contains(" no owner ") && line("kept").contains(" no owner "), "{table}");
    assert!(line("owned").contains(" running "), "{table}");
    let rows = run(&place, &["ps", "--json"]).expect(0).json();
    for row in rows.as_array().expect("rows") {
        let is_owned = row["task_id"] == "owned";
        assert_eq!(
            (&row["owner_alive"], &row["state"]),
            (&is_owned.into(), &"running".into()),
            "{row:#}"
        );
    }
    let tree = run(&place, &["tree", "left"]).expect(0).out;
    assert!(tree.starts_with("left: no owner, "), "{tree}");
    owned.crash();
}

#[test]
fn an_ended_run_of_a_task_was_hidden_by_newer_runs_of_others() {
    let place = Place::new();
    for task in ["old", "new", "newer"] {
        run(&place, &["run", "--task", task, "--", "true"]).expect(0);
    }
    let listed = |names: &[&str]| {
        let rows = [&["ps", "--all", "--json", "--limit", "1"], names].concat();
        let rows = run(&place, &rows).expect(0).json();
        let tasks = rows.as_array().expect("rows").iter();
        tasks.map(|row| row["task_id"].as_str().expect("a task").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["newer"]);
    assert_eq!(listed(&["old"]), ["old"]);
    assert_eq!(listed(&["old", "new", "old"]), ["new", "old"]);
    assert_eq!(listed(&["n*"]), ["newer"]);

    let none = run(&place, &["ps", "old"]).expect(0);
    assert!(none.err.contains("no task old runs: --all shows what has ended"), "{none:?}");
    assert!(run(&place, &["ps", "--all", "missing"]).expect(0).err.contains("no task missing\n"));
    assert_eq!(run(&place, &["ps", "--all", "old"]).expect(0).err, "");
}
