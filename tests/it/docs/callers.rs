//! docs/callers.md is true: each of its blocks runs, and leaves nothing behind.

use std::{fs, path::Path, process::Command};

use crate::{
    cli::command::{PROCLEDGER, answer, clean, run},
    support::{Place, in_namespace_with_init, tool, until},
};

/// The blocks of the page in one language.
fn blocks(language: &str) -> Vec<String> {
    let page = format!("{}/docs/callers.md", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(page).expect("the page");
    let parts: Vec<&str> = page.split("\n```").collect();
    let fenced = parts.iter().skip(1).step_by(2);
    let blocks = fenced.filter_map(|part| part.strip_prefix(&format!("{language}\n")));
    blocks.map(str::to_owned).collect()
}

/// Runs a block as a file with the command that `interpreter` names, on the ledger of the place.
fn run_block(place: &Place, interpreter: &[&str], name: &str, text: &str) -> String {
    fs::write(place.path().join(name), text).expect("a file");
    let mut command = Command::new(interpreter[0]);
    clean(&mut command, place);
    let folder = Path::new(PROCLEDGER).parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(folder).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(path).expect("paths"));
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    command.env("GOCACHE", place.path().join("cache"));
    answer(command.args(&interpreter[1..]).arg(name)).expect(0).out
}

/// Runs all blocks of a language in order; returns what they printed.
fn run_all(language: &str, interpreter: &[&str], count: usize) -> Vec<String> {
    let blocks = blocks(language);
    assert_eq!(blocks.len(), count, "{language}");
    let place = Place::new();
    let printed = blocks.iter().map(|text| {
        let out = run_block(&place, interpreter, &format!("block.{language}"), text);
        until("nothing is left", || place.alive().is_empty());
        assert!(
            run(&place, &["ps", "--json"]).expect(0).json().as_array().expect("rows").is_empty()
        );
        out
    });
    printed.collect()
}

#[test]
fn the_python_blocks_run() {
    if in_namespace_with_init("docs::callers::the_python_blocks_run") && tool("python3").is_some() {
        let out = run_all("python", &["python3"], 4);
        assert_eq!(out[1], "cancelled\n");
    }
}

#[test]
fn the_node_blocks_run() {
    if in_namespace_with_init("docs::callers::the_node_blocks_run") && tool("node").is_some() {
        run_all("js", &["node"], 3);
    }
}

#[test]
fn the_go_blocks_run() {
    if in_namespace_with_init("docs::callers::the_go_blocks_run") && tool("go").is_some() {
        let out = run_all("go", &["go", "run"], 2);
        assert_eq!(out[0], "one\ntwo\nslow: 143\n");
        assert_eq!(out[1], "runs: 1\nstarted again\nleaked: crash\n");
    }
}

#[test]
fn the_shell_blocks_run() {
    if in_namespace_with_init("docs::callers::the_shell_blocks_run") {
        let out = run_all("sh", &["sh"], 3);
        for line in ["got two", "failed with 3", "ended with 124", "cancelled with 143"] {
            assert!(out[0].contains(line), "{out:?}");
        }
        for line in ["timeout: 124", "later: 4", "from the background", "none is left: 1"] {
            assert!(out[1].contains(line), "{out:?}");
        }
        let (again, leaks) = out[2].split_once('\n').expect("lines");
        assert_eq!(again, "started again");
        assert!(leaks.contains("its caller ") && leaks.contains("orphan"), "{leaks}");
    }
}
