//! The statements stay in what PostgreSQL and the engines that speak its protocol have in common:
//! they differ in DDL alone.

use std::{fs, path::Path};

/// What one of these engines lacks, or only PostgreSQL has.
const FOREIGN: [&str; 14] = [
    "::",
    "copy ",
    "create temporary",
    "lock table",
    "ctid",
    "xmin",
    "pg_advisory",
    "tableoid",
    "distinct on",
    "merge into",
    "do $$",
    "filter (",
    "lateral",
    "truncate",
];

#[test]
fn statements_use_no_dialect_of_a_single_engine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fleet/statements");
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let sql = fs::read_to_string(&path).expect("UTF-8").to_lowercase();
        for word in FOREIGN {
            assert!(!sql.contains(word), "{}: {word}", path.display());
        }
        let inserts_without_columns = sql
            .split("insert into ")
            .skip(1)
            .any(|rest| !rest.split_whitespace().nth(1).is_some_and(|word| word.starts_with('(')));
        assert!(!inserts_without_columns, "{}: no list of columns", path.display());
        assert!(!sql.contains("select *"), "{}: columns are named", path.display());
        seen += 1;
    }
    assert!(seen > 20, "where are the statements?");
}
