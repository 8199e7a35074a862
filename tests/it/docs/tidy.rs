//! The rules that a reader of the source may rely on, checked against the source itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each layer with the modules of the crate that it may use; see docs/architecture.md.
const LAYERS: [(&str, &[&str]); 14] = [
    ("identity", &[]),
    ("error", &["identity"]),
    ("sys", &["identity", "error"]),
    ("redact", &[]),
    ("model", &["identity", "error", "sys"]),
    ("policy", &["identity", "error", "sys", "model"]),
    ("metrics", &["identity", "error", "model"]),
    ("store", &["identity", "error", "sys", "redact", "model", "policy", "metrics"]),
    ("export", &["identity", "error", "sys", "model", "policy", "metrics"]),
    (
        "tracker",
        &["identity", "error", "sys", "redact", "model", "policy", "metrics", "store", "export"],
    ),
    // Reads a ledger for a receiver in another place; it knows no process.
    ("fleet", &["identity", "error", "sys", "metrics", "model", "store"]),
    // The public face of the tracker's keeper.
    ("keeper", &["tracker"]),
    // What the command needs of paths.
    ("paths", &["sys"]),
    // Only for the fuzz targets.
    ("fuzzing", &["policy", "sys", "export"]),
];

/// A file is as long as its concept: usually 150 to 400 lines. Beyond this limit it certainly
/// contains two.
const LONGEST_FILE: usize = 800;
/// A function has one idea. Beyond this limit it cannot be read at a glance any more.
const LONGEST_FUNCTION: usize = 100;
/// Comments are as wide as the code, in characters.
const WIDEST_COMMENT: usize = 100;

struct Source {
    /// The path below `src`.
    path: PathBuf,
    /// The text without comments, and without the module of tests at its end.
    code: String,
    /// The original text.
    text: String,
}

impl Source {
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder) || self.path == Path::new(folder).with_extension("rs")
    }
}

/// Every source file except those that contain only tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut all) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(&root).expect("below").to_owned();
                let tests = path.components().any(|part| part.as_os_str() == "tests")
                    || path.file_name().is_some_and(|name| name == "tests.rs");
                if !tests {
                    all.push(Source { path, code: code(&text), text });
                }
            }
        }
    }
    assert!(all.len() > 50, "where is the source?");
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The modules named right after `crate::`, in a path or in a group of a `use`.
fn modules_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // Not the end of `$crate::` or of another word.
        if code[..at].ends_with(|char: char| char.is_alphanumeric() || "_$".contains(char)) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            used.extend(first_names(group));
        } else {
            used.insert(word(rest));
        }
    }
    used
}

/// The first name of each part of a group, up to the brace that closes it.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut at_start, mut names) = (0, true, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && !char.is_whitespace() => {
                names.push(word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()
}

#[test]
fn imports_are_parsed_correctly() {
    let code = "use crate::{\n    a::{b, c},\n    d,\n    e::f,\n};\nlet x = crate::g::h(); pub(crate) fn i() {} $crate::j;";
    assert_eq!(modules_used(code).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
}

#[test]
fn each_layer_uses_only_its_allowed_modules() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_in("bin") && !source.is_in("lib")) {
        let layer = LAYERS.iter().find(|(layer, _)| source.is_in(layer));
        let (layer, allowed) = layer.unwrap_or_else(|| panic!("{:?} is in no layer", source.path));
        for used in modules_used(&source.code) {
            if used != *layer && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", source.path.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn comments_are_as_wide_as_the_code() {
    let mut wide = Vec::new();
    for source in sources() {
        let mut example = false;
        for (number, line) in source.text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let comment = comment.trim_start_matches(['/', '!']).trim_start();
            if comment.starts_with("```") {
                example = !example;
            }
            // Only prose can be wrapped.
            let prose = !example && !comment.starts_with('|') && !comment.contains("  ");
            if prose && line.chars().count() > WIDEST_COMMENT {
                wide.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    assert_eq!(wide, [""; 0]);
}

#[test]
fn the_command_uses_only_the_public_api() {
    for source in sources().iter().filter(|source| source.is_in("bin")) {
        for word in ["rusqlite", "r2d2", "#[path"] {
            assert!(!source.code.contains(word), "{:?} uses {word}", source.path);
        }
    }
}

#[test]
fn unsafe_code_is_only_in_sys_and_has_safety_comments() {
    for source in sources() {
        let has = source.code.contains("unsafe {") || source.code.contains("unsafe impl");
        assert!(!has || source.is_in("sys"), "unsafe in {:?}", source.path);
        assert!(!has || source.text.contains("SAFETY:"), "no SAFETY: in {:?}", source.path);
    }
}

#[test]
fn sql_is_only_in_store() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_in("store")) {
        for (number, line) in source.code.lines().enumerate() {
            // A query that `demo` suggests for sqlite3 is text for the user.
            let suggested = line.contains("sqlite3 -readonly");
            let sql = ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "PRAGMA "];
            if !suggested && sql.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}, code line {}: {line}", source.path.display(), number + 1));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn no_file_exceeds_the_line_limit() {
    for source in sources() {
        let length = source.text.lines().count();
        assert!(length <= LONGEST_FILE, "{} has {length} lines", source.path.display());
    }
}

#[test]
fn no_function_exceeds_the_line_limit() {
    let mut long = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.code.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            // rustfmt aligns the closing brace with the start of the function; a function without a
            // body has none.
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0);
            let next = lines[start + 1..].iter().position(|line| {
                is_function(line) && line.len() - line.trim_start().len() == indent
            });
            if length + 1 > LONGEST_FUNCTION && next.is_none_or(|next| next >= length) {
                long.push(format!(
                    "{}: {} lines: {}",
                    source.path.display(),
                    length + 1,
                    line.trim()
                ));
            }
        }
    }
    assert_eq!(long, [""; 0]);
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    [
        "fn ",
        "pub fn ",
        "pub(crate) fn ",
        "pub(super) fn ",
        "unsafe fn ",
        "const fn ",
        "pub(crate) unsafe fn ",
        "pub(super) unsafe fn ",
        "extern \"C\" fn ",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

/// Words that treat a process or the kernel as a person. House style: docs/glossary.md.
const PERSONS: [&str; 7] =
    ["anybody", "everybody", "nobody", "somebody", "told", "whoever", "whomever"];

/// The words of a text, without names in code, quoted words and paths.
fn prose_words(line: &str) -> impl Iterator<Item = &str> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_`\"'/:".contains(c);
    line.split(move |c| !is_inner(c)).filter(|word| word.chars().all(|c| c.is_ascii_alphabetic()))
}

fn pages(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).expect("UTF-8"))).collect()
}

#[test]
fn comments_and_docs_do_not_personify_processes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = pages(root);
    texts.extend(pages(&root.join("docs")));
    assert!(texts.len() > 12, "where are the pages?");
    texts.extend(sources().into_iter().map(|source| (source.path, source.text)));
    let mut found = Vec::new();
    for (path, text) in &texts {
        for (number, line) in (1..).zip(text.lines()) {
            let of_persons = |word: &str| PERSONS.contains(&word.to_ascii_lowercase().as_str());
            if prose_words(line).any(of_persons) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_check_finds_personification_and_ignores_user_names() {
    let is_found = |line| prose_words(line).any(|word| PERSONS.contains(&word));
    assert!(is_found("ends whoever holds it, as the kernel told."));
    assert!(is_found("(nobody)"));
    assert!(!is_found("as the user `nobody`, in as_nobody(\"nobody\"), below /home/nobody"));
}
