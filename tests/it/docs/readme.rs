//! The README is true: its commands run, and its queries answer with the columns that it shows. Its
//! Rust is a doctest.

use std::{fs, process::Command};

use crate::{
    cli::command::{PROCLEDGER, Running, answer, clean, run},
    support::{Place, in_namespace_with_init, tool},
};

/// The two commands for a machine with Rust and a C compiler. They build and test this crate, so a
/// test does not run them; it checks that CI runs them, word for word.
const FOR_A_FRESH_MACHINE: [&str; 2] = ["cargo run -- demo", "cargo test"];

fn file(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fenced blocks: language and text, in order.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn ci_runs_the_two_commands_for_a_fresh_machine() {
    let readme = blocks(&file("README.md"));
    let ci = file(".ci/run");
    for command in FOR_A_FRESH_MACHINE {
        assert!(readme.iter().any(|(_, text)| text.trim() == command), "README: {command}");
        assert!(ci.lines().any(|line| line.trim() == format!("step {command}")), "CI: {command}");
    }
}

#[test]
fn every_shell_block_runs_and_prints_what_the_page_shows() {
    // One of them looks at all processes, and fails if the ledger of one is gone: other tests
    // remove theirs at any time.
    if !in_namespace_with_init(
        "docs::readme::every_shell_block_runs_and_prints_what_the_page_shows",
    ) {
        return;
    }
    let blocks = blocks(&file("README.md"));
    let mut tried = 0;
    for (index, (language, script)) in blocks.iter().enumerate() {
        if language != "sh" || FOR_A_FRESH_MACHINE.contains(&script.trim()) {
            continue;
        }
        if script.contains("sqlite3 ") && tool("sqlite3").is_none() {
            continue;
        }
        let out = run_block(script);
        if let Some((_, shown)) = blocks.get(index + 1).filter(|(language, _)| language == "text") {
            // Pids and times differ; the columns do not, and there is a row below them.
            let columns = shown.lines().next().expect("a line");
            assert_eq!(words(out.lines().next().unwrap_or_default()), words(columns), "{script}");
            assert!(out.lines().count() > 2, "nothing to see: {script}{out}");
        }
        tried += 1;
    }
    assert!(tried >= 2, "where are the README's blocks?");
}

/// In a folder of its own, with a ledger that has a history: one process runs, one ended, one
/// leaked.
fn run_block(script: &str) -> String {
    let place = Place::new();
    run(&place, &["run", "--task", "ended", "--", "sh", "-c", "exit 3"]).expect(3);
    Running::start(&place, "leaked", &[], "sleep 300 & echo up; wait").crash();
    run(&place, &["reap"]).expect(0);
    let _running = Running::start(&place, "going", &[], "echo up; exec sleep 300");
    let folder = std::path::Path::new(PROCLEDGER).parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path)));
    let mut shell = Command::new("sh");
    clean(&mut shell, &place);
    shell.args(["-euc", script]).env("PATH", path.expect("a PATH")).env("HOME", place.path());
    answer(shell.current_dir(place.path())).expect(0).out
}
