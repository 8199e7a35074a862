//! docs/guarantees.md is true: everything it names exists, and each invariant has a test with its
//! number.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const INVARIANTS: usize = 13;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/guarantees.md")).expect("the page")
}

/// The part of the page about an invariant.
fn section(page: &str, number: usize) -> &str {
    let start = page.find(&format!("\n## {number}. ")).unwrap_or_else(|| panic!("no {number}"));
    let below = &page[start + 1..];
    &below[..below[1..].find("\n## ").map_or(below.len(), |end| end + 1)]
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Tests by their paths in the suite, and by their names alone in the modules of the crate.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in rust_files("tests/it").into_iter().chain(rust_files("src")) {
        let text = fs::read_to_string(&file).expect("text");
        let module = file
            .strip_prefix(root().join("tests/it"))
            .ok()
            .map(|path| path.with_extension("").to_string_lossy().replace('/', "::"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, _) in lines.iter().enumerate().filter(|(_, line)| **line == "#[test]") {
            let function = lines[at..].iter().find_map(|line| line.strip_prefix("fn "));
            let name = function.expect("a function").split('(').next().expect("a name");
            tests.insert(match &module {
                Some(module) => format!("{module}::{name}"),
                None => name.to_owned(),
            });
        }
    }
    tests
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_invariant_has_tests_named_after_it_and_the_page_lists_all_of_them() {
    let (page, tests) = (page(), tests());
    for number in 1..=INVARIANTS {
        let section = section(&page, number);
        for part in ["**By** ", "**Held by** ", "**Up to:** "] {
            assert!(section.contains(part), "invariant {number} has no {part}");
        }
        let bears = |test: &&String| {
            let name = test.rsplit("::").next().unwrap_or(test);
            name.starts_with(&format!("invariant_{number:02}_"))
        };
        let held: Vec<&String> = tests.iter().filter(bears).collect();
        assert!(!held.is_empty(), "no test is named after invariant {number}");
        let named: BTreeSet<&str> = code(section).collect();
        // The unit tests beside the code are many, and small.
        for test in held.iter().filter(|test| test.contains("::")) {
            assert!(named.contains(test.as_str()), "{test} is not named with invariant {number}");
        }
        assert!(named.iter().any(|name| held.iter().any(|test| test == name)), "{number}");
    }
    assert!(
        !page.contains(&format!("\n## {}. ", INVARIANTS + 1)),
        "one that this test does not know"
    );
}

#[test]
fn every_test_that_the_page_names_exists() {
    let (page, tests) = (page(), tests());
    let mut named = 0;
    for number in 1..=INVARIANTS {
        let held = section(&page, number).split("**Held by**").nth(1).expect("held by");
        for name in code(held.split("**Up to:**").next().expect("a part")) {
            assert!(
                tests.contains(name),
                "invariant {number} names `{name}`, and there is no such test"
            );
            named += 1;
        }
    }
    assert!(named > 2 * INVARIANTS, "{named}");
}

#[test]
fn every_file_that_the_page_links_exists() {
    let page = page();
    let links: Vec<&str> =
        page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 2 * INVARIANTS);
    for link in links {
        assert!(root().join("docs").join(link).exists(), "{link}");
    }
}
