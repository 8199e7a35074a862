//! Imports, read from the source with `syn`: which file uses which, and that no file uses itself
//! through others.
//!
//! A name that a `mod.rs` only re-exports counts as a use of the file that defines it. Unit tests
//! do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::visit::Visit;

/// A module of a crate, as its segments below the crate's root.
pub(super) type Module = Vec<String>;

/// The files of one crate.
pub(super) struct Crate {
    pub(super) files: BTreeMap<Module, syn::File>,
}

/// What one file names: the segments of each path, as written.
#[derive(Default)]
struct Named {
    paths: Vec<Vec<String>>,
}

impl Crate {
    /// Reads all files below the folder of `root`, such as `src/lib.rs`; folders in `without`
    /// belong to other crates.
    pub(super) fn read(root: &str, without: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let folder = root.parent().expect("a folder").to_owned();
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).expect("a folder") {
                let path = entry.expect("an entry").path();
                let below = path.strip_prefix(&folder).expect("below").to_owned();
                if path.is_dir() {
                    if !without.iter().any(|name| below == Path::new(name)) {
                        folders.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).expect("UTF-8");
                    let file = syn::parse_file(&text)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    let module = if path == root { Vec::new() } else { module_of(&below) };
                    files.insert(module, file);
                }
            }
        }
        Self { files }
    }

    /// Returns for each module the modules that it uses.
    fn uses(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let mut all = BTreeMap::new();
        for (module, file) in self.files.iter().filter(|(module, _)| !is_of_tests(module)) {
            let mut named = Named::default();
            named.visit_file(file);
            let used = named.paths.iter().filter_map(|path| self.defined_in(module, path, 0));
            let others = used.filter(|used| used != module && !is_of_tests(used));
            all.insert(module, others.collect());
        }
        all
    }

    /// The file that defines what `path` names as seen from `module`; `None` for another crate's.
    pub(super) fn defined_in(
        &self,
        module: &Module,
        path: &[String],
        depth: u32,
    ) -> Option<Module> {
        let mut at = module.clone();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                let child: Module = at.iter().cloned().chain([first.to_owned()]).collect();
                if !self.files.contains_key(&child) {
                    return None;
                }
            }
        }
        while let Some(word) = rest.first() {
            let child: Module = at.iter().cloned().chain([word.clone()]).collect();
            if self.files.contains_key(&child) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            // Not a file: an item that this file defines or re-exports.
            let re_exported = (depth < 8).then(|| self.re_exported(&at, word)).flatten();
            return match re_exported {
                Some(path) => self.defined_in(&at, &path, depth + 1).or(Some(at)),
                None => Some(at),
            };
        }
        Some(at)
    }

    /// The path by which `module` re-exports `name`.
    fn re_exported(&self, module: &Module, name: &str) -> Option<Vec<String>> {
        let uses = self.files.get(module)?.items.iter().filter_map(|item| match item {
            syn::Item::Use(item) => Some(item),
            _ => None,
        });
        let mut leaves = Vec::new();
        for item in uses {
            leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
        }
        leaves.into_iter().find(|(visible, _)| visible == name).map(|(_, path)| path)
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        let tests = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        };
        if !attributes.iter().any(tests) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A file that re-exports items of its folder does not use them.
        if matches!(item.vis, syn::Visibility::Inherited) {
            let mut leaves = Vec::new();
            leaves_of(&item.tree, &mut Vec::new(), &mut leaves);
            self.paths.extend(leaves.into_iter().map(|(_, path)| path));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|part| part.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// The leaves of a `use`: the name that becomes visible, and its path.
pub(super) fn leaves_of(
    tree: &syn::UseTree,
    before: &mut Vec<String>,
    leaves: &mut Vec<(String, Vec<String>)>,
) {
    let mut leaf = |visible: String, last: Option<String>| {
        leaves.push((visible, before.iter().cloned().chain(last).collect()));
    };
    match tree {
        syn::UseTree::Name(name) if name.ident == "self" => {
            leaf(before.last().cloned().unwrap_or_default(), None);
        }
        syn::UseTree::Name(name) => leaf(name.ident.to_string(), Some(name.ident.to_string())),
        syn::UseTree::Rename(name) => leaf(name.rename.to_string(), Some(name.ident.to_string())),
        syn::UseTree::Glob(_) => leaf("*".to_owned(), None),
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves_of(&path.tree, before, leaves);
            before.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                leaves_of(tree, before, leaves);
            }
        }
    }
}

fn module_of(below: &Path) -> Module {
    let mut parts: Module =
        below.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

pub(super) fn is_of_tests(module: &[String]) -> bool {
    module.iter().any(|part| part == "tests")
}

/// Sets of modules that use each other in a cycle.
fn circles(uses: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reached = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for used in uses.get(&module).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> =
        uses.keys().map(|module| (*module, reached(module))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (module, reached) in all.iter().filter(|(module, reached)| reached.contains(**module)) {
        let circle =
            all.iter().filter(|(other, from)| reached.contains(**other) && from.contains(*module));
        let circle: Vec<String> = circle.map(|(other, _)| other.join("::")).collect();
        if !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// Fails if files of a crate use each other in a cycle.
fn no_circle(root: &str, without: &[&str]) {
    let files = Crate::read(root, without);
    assert!(files.files.len() > 2, "where is the source of {root}?");
    let uses = files.uses();
    let circles = circles(&uses);
    let ties = |circle: &Vec<String>| {
        let tie = |(from, targets): (&&Module, &BTreeSet<Module>)| {
            let from = from.join("::");
            let targets = targets.iter().map(|target| target.join("::"));
            let within: Vec<String> = targets
                .filter(|target| circle.contains(&from) && circle.contains(target))
                .collect();
            (!within.is_empty()).then(|| format!("\n  {from} uses {}", within.join(", ")))
        };
        uses.iter().filter_map(tie).collect::<String>()
    };
    assert!(
        circles.is_empty(),
        "imports of {root} go round in circles:{}",
        circles.iter().map(|circle| ties(circle) + "\n").collect::<String>()
    );
}

#[test]
fn the_library_has_no_import_cycle() {
    no_circle("src/lib.rs", &["bin"]);
}

#[test]
fn the_command_has_no_import_cycle() {
    no_circle("src/bin/procledger/main.rs", &[]);
}

#[test]
fn the_scoreboard_has_no_import_cycle() {
    no_circle("benches/scoreboard/main.rs", &[]);
}

#[test]
fn a_cycle_through_a_re_export_is_found() {
    let parse = |text: &str| syn::parse_file(text).expect("Rust");
    let files = BTreeMap::from([
        (vec![], parse("mod a; mod b;")),
        (vec!["a".to_owned()], parse("mod c; pub use c::C; pub use d::D; mod d;")),
        (vec!["a".to_owned(), "c".to_owned()], parse("use super::D; pub struct C(D);")),
        (vec!["a".to_owned(), "d".to_owned()], parse("pub struct D(crate::b::B);")),
        (vec!["b".to_owned()], parse("use crate::a::C as X; pub struct B(X); use std::fs;")),
    ]);
    let files = Crate { files };
    assert_eq!(circles(&files.uses()), [["a::c", "a::d", "b"]]);
}
