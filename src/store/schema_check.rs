//! Checks that a ledger's schema contains only what the migrations made, and additions without side
//! effects.
//!
//! Other objects in a schema may run code whenever we read or write: a trigger, a generated column,
//! a `CHECK`, an index on an expression, a foreign key. Such code could lose rows, refuse them or
//! never end. So a ledger that contains such an object is refused, with the name of the object,
//! before one of our statements could run it.
//!
//! A person may add the following for queries: tables that do not refer to ours, views with other
//! names, and plain indexes. An index on one of our tables is plain if it is on columns alone, not
//! unique, not partial, and uses a collation that is built into SQLite. A missing index or view of
//! ours only costs time, and is no reason to refuse the ledger.
//!
//! The texts in `sqlite_schema` are compared with those that the same migrations generate. For the
//! newest version they are stored in `schema.json`, since generating them takes longer than
//! everything else in the start of a short command; a test compares the file with the migrations.
//! For other versions they are generated in memory.

use std::{collections::HashMap, path::Path, sync::LazyLock};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::{
    failure::failed,
    migration::{self, Schema, migrate_to},
};
use crate::error::{Error, Kind, Result};

/// Maximum length in a message of a name, which may be hostile.
const NAME_MAX: usize = 60;

/// A row of `sqlite_schema` (<https://sqlite.org/schematab.html>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: Option<String>,
}

/// The objects of the migrations, by lowercase name.
type Expected = HashMap<String, Object>;

static EXPECTED: LazyLock<Result<Expected, String>> = LazyLock::new(|| {
    let latest = Schema::latest();
    kept()
        .filter(|kept| kept.schema == latest.number())
        .map_or_else(|| expected(latest), |kept| Ok(by_name(kept.objects)))
});

/// The objects of the migrations up to a schema.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredSchema {
    schema: i64,
    objects: Vec<Object>,
}

fn kept() -> Option<StoredSchema> {
    serde_json::from_str(include_str!("schema.json")).ok()
}

fn by_name(objects: Vec<Object>) -> Expected {
    objects.into_iter().map(|object| (object.name.to_lowercase(), object)).collect()
}

/// Refuses an object that no migration made and that could run code, with its name and what to do;
/// returns the schema.
///
/// In a ledger of a newer version, whose migrations are unknown here, only objects that no version
/// creates are refused: triggers and virtual tables.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<Schema> {
    let wrong = |error| failed(path, "read the schema", error);
    let compatible: i64 =
        connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(wrong)?;
    let schema = migration::of(connection, compatible).map_err(wrong)?;
    let older;
    let expected = match schema {
        schema if schema == Schema::latest() => EXPECTED.as_ref(),
        schema if schema > Schema::latest() => {
            let found = objects(connection).map_err(wrong)?;
            let fault = found.iter().find_map(fires_in_any_version);
            return fault.map_or(Ok(schema), |fault| Err(refused(path, &fault)));
        }
        schema => {
            older = expected(schema);
            older.as_ref()
        }
    };
    let expected = expected.map_err(|error| {
        Error::new(Kind::Other, format!("failed to generate the schema to compare with: {error}"))
    })?;
    match fault(connection, expected).map_err(wrong)? {
        None => Ok(schema),
        Some(fault) => Err(refused(path, &fault)),
    }
}

/// A fault of a schema, and what to do about it.
struct Fault {
    what: String,
    advice: String,
}

fn refused(path: &Path, fault: &Fault) -> Error {
    let message = format!("the ledger `{}` {}: {}", path.display(), fault.what, fault.advice);
    Error::new(Kind::Denied, message)
}

fn fault(connection: &Connection, expected: &Expected) -> rusqlite::Result<Option<Fault>> {
    let found = objects(connection)?;
    for object in &found {
        let fault = match expected.get(&object.name.to_lowercase()) {
            Some(ours) if ours == object => None,
            Some(ours) => Some(Fault {
                what: format!(
                    "has a {} `{}` that differs from procledger's",
                    ours.kind,
                    name(object)
                ),
                advice: "restore a backup, or choose another ledger".to_owned(),
            }),
            None => unexpected(connection, expected, object)?,
        };
        if fault.is_some() {
            return Ok(fault);
        }
    }
    let missing = expected.values().filter(|ours| ours.kind == "table").find(|ours| {
        !found.iter().any(|object| object.name.eq_ignore_ascii_case(&ours.name))
            // The query planner's table, which a person may drop.
            && !ours.name.starts_with("sqlite_")
    });
    Ok(missing.map(|ours| Fault {
        what: format!("has lost its table `{}`", ours.name),
        advice: "restore a backup, or choose another ledger".to_owned(),
    }))
}

fn unexpected(
    connection: &Connection,
    expected: &Expected,
    object: &Object,
) -> rusqlite::Result<Option<Fault>> {
    if let Some(fault) = fires_in_any_version(object) {
        return Ok(Some(fault));
    }
    let is_ours = |table: &str| expected.contains_key(&table.to_lowercase());
    match object.kind.as_str() {
        "table" if refers_to_ours(connection, &object.name, &is_ours)? => {
            Ok(Some(dropped(object, "which refers to a table of procledger")))
        }
        "index" if is_ours(&object.table) && !is_plain(connection, object)? => {
            Ok(Some(dropped(object, "which is unique, or not on plain columns alone")))
        }
        _ => Ok(None),
    }
}

fn fires_in_any_version(object: &Object) -> Option<Fault> {
    match object.kind.as_str() {
        "trigger" => Some(dropped(object, "which procledger did not make")),
        "table" if is_virtual(object) => Some(dropped(object, "which is virtual")),
        "table" | "view" | "index" => None,
        _ => Some(dropped(object, "of an unknown kind")),
    }
}

fn dropped(object: &Object, why: &str) -> Fault {
    let (kind, name) = (&object.kind, name(object));
    Fault {
        what: format!("contains the {kind} `{name}`, {why}"),
        advice: format!(
            "remove it with `DROP {} \"{name}\"` in sqlite3, or choose another ledger",
            kind.to_uppercase()
        ),
    }
}

/// Returns the name of an object, shortened and safe for a terminal.
fn name(object: &Object) -> String {
    object.name.chars().take(NAME_MAX).flat_map(char::escape_debug).collect()
}

fn is_virtual(object: &Object) -> bool {
    // SQLite writes these words itself, whatever spelling was used.
    object.sql.as_deref().is_some_and(|sql| sql.starts_with("CREATE VIRTUAL TABLE"))
}

/// Reports whether a table refers to ours: each of our deletions would read such a table, and
/// execute its `ON DELETE`.
fn refers_to_ours(
    connection: &Connection,
    table: &str,
    is_ours: &impl Fn(&str) -> bool,
) -> rusqlite::Result<bool> {
    let mut keys = connection.prepare("SELECT \"table\" FROM pragma_foreign_key_list(?1)")?;
    let mut parents = keys.query([table])?;
    while let Some(row) = parents.next()? {
        if is_ours(&row.get::<_, String>(0)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_plain(connection: &Connection, index: &Object) -> rusqlite::Result<bool> {
    // An expression is column -2 (https://sqlite.org/pragma.html#pragma_index_xinfo).
    let sql = "SELECT NOT (list.\"unique\" OR list.partial OR EXISTS (
            SELECT 1 FROM pragma_index_xinfo(list.name) AS x
            WHERE x.cid = -2 OR coalesce(x.coll, '') NOT IN ('BINARY', 'NOCASE', 'RTRIM')))
        FROM pragma_index_list(?1) AS list WHERE list.name = ?2";
    let mut plain = connection.prepare(sql)?;
    let mut rows = plain.query([&index.table, &index.name])?;
    rows.next()?.map_or(Ok(false), |row| row.get(0))
}

fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let mut all = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    let rows = all.query_map([], |row| {
        Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
    })?;
    rows.collect()
}

fn expected(schema: Schema) -> Result<Expected, String> {
    made(schema).map(by_name).map_err(|error| error.to_string())
}

fn made(schema: Schema) -> rusqlite::Result<Vec<Object>> {
    let mut memory = Connection::open_in_memory()?;
    migrate_to(&mut memory, schema)?;
    objects(&memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_the_migrations_are_recognized_in_every_version() {
        for schema in migration::all() {
            let mut ledger = Connection::open_in_memory().expect("a database");
            migrate_to(&mut ledger, schema).expect("migrated");
            check(&ledger, Path::new("/x/ledger.db")).expect("nothing but ours");
        }
    }

    /// After a new migration: run it once with `PROCLEDGER_WRITE_SCHEMA=1`.
    #[test]
    fn the_stored_schema_is_that_of_the_migrations() {
        let latest = Schema::latest();
        let wanted = StoredSchema { schema: latest.number(), objects: made(latest).expect("made") };
        if std::env::var_os("PROCLEDGER_WRITE_SCHEMA").is_some() {
            let text = serde_json::to_string_pretty(&wanted).expect("JSON") + "\n";
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/schema.json");
            std::fs::write(file, text).expect("written");
            return;
        }
        assert_eq!(kept(), Some(wanted), "run this test with PROCLEDGER_WRITE_SCHEMA=1");
    }
}
