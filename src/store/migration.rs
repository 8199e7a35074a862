//! The version of a ledger's schema, and the migrations from one to the next.
//!
//! A ledger has two numbers:
//!
//! - its *schema*, the number of migrations that were applied to it: in the table `ledger` since
//!   migration 4, before that in `PRAGMA user_version`;
//! - its *compatibility level*, `PRAGMA user_version`: the oldest schema whose programs may still
//!   read and write it.
//!
//! Every released program refuses a ledger whose `user_version` is greater than the schema that the
//! program knows, and checks nothing else. So a migration that only adds (a nullable column, a
//! table, an index, a view) leaves `user_version` as it is: a program of an older version keeps
//! working, beside newer ones and after them. A migration that older programs cannot work with
//! raises it to its own number; see [`COMPATIBLE`].
//!
//! # To add a migration
//!
//! 1. Write `migrations/NN-name/up.sql` and add it to [`MIGRATIONS`]. Columns are nullable or have
//!    a default, with a comment on each.
//! 2. Name what it adds in an associated constant of [`Schema`], and check `tx.schema() >=
//!    Schema::…` or `store.schema() >= Schema::…` wherever the code reads or writes it: a program
//!    that does not own a ledger (`watch`, `reap`, `kill` and everything that reads) leaves the
//!    ledger at its schema, in which the addition may be missing.
//! 3. Run `PROCLEDGER_WRITE_SCHEMA=1 cargo test --lib -- the_stored_schema` once: it writes the
//!    schema that ledgers are compared with when they are opened.
//! 4. If older programs must not write any more, set [`COMPATIBLE`] to NN and the version of this
//!    release. If this program cannot use older schemas as they are, raise [`OLDEST_USABLE`].
//!
//! # Crashes
//!
//! All migrations that a ledger lacks, both numbers included, are one immediate transaction.
//! `rusqlite_migration` keeps its own count in `user_version` and could not leave it behind within
//! that transaction, so this module runs them itself.

use std::{error::Error as _, fmt, path::Path};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, ffi};

use crate::error::{Error, Kind, Result};

/// The migrations in order; the first one leads to schema 1.
const MIGRATIONS: [&str; 10] = [
    include_str!("../../migrations/01-ledger/up.sql"),
    include_str!("../../migrations/02-cgroup/up.sql"),
    include_str!("../../migrations/03-views/up.sql"),
    include_str!("../../migrations/04-ledger/up.sql"),
    include_str!("../../migrations/05-keeper/up.sql"),
    include_str!("../../migrations/06-keys/up.sql"),
    include_str!("../../migrations/07-shipment/up.sql"),
    include_str!("../../migrations/08-end-plan/up.sql"),
    include_str!("../../migrations/09-core-dump/up.sql"),
    include_str!("../../migrations/10-leak-signal/up.sql"),
];

/// The last migration that older programs cannot work with, and the first release that contains it.
const COMPATIBLE: (i64, &str) = (3, "0.1.0");
/// The oldest schema that this program can use without migrating it: there is a fallback for each
/// addition that is missing.
const OLDEST_USABLE: Schema = Schema(1);

/// The schema of a ledger: the number of migrations that were applied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Schema(i64);

impl Schema {
    pub(super) const FIRST: Self = Self(1);
    /// `instance.cgroup`, `instance.cgroup_inode` and `process.evidence`.
    pub(super) const CGROUP: Self = Self(2);
    /// The table `ledger`.
    pub(super) const LEDGER: Self = Self(4);
    /// `process.keeper_pid`, `process.keeper_start_tick`, `process.keeper_pidfd_inode` and
    /// `process.attributes`.
    pub(super) const KEEPER: Self = Self(5);
    /// `process.end_rule_key`, `process.end_evidence_key`, `leak.rule_key` and `leak.evidence_key`.
    pub(super) const KEYS: Self = Self(6);
    /// The table `shipment`.
    pub(super) const SHIPMENT: Self = Self(7);
    /// `process.end_plan`.
    pub(super) const END_PLAN: Self = Self(8);
    /// `process.core_dumped`.
    pub(super) const CORE_DUMP: Self = Self(9);
    /// `leak.stop_signal`.
    pub(super) const LEAK_SIGNAL: Self = Self(10);

    /// Returns the schema of a new ledger: that of all migrations.
    pub(crate) fn latest() -> Self {
        Self(i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))
    }

    pub(super) fn number(self) -> i64 {
        self.0
    }

    /// Reports whether the ledger lacks no migration that this program knows. A newer program may
    /// have applied more.
    pub(crate) fn is_current(self) -> bool {
        self >= Self::latest()
    }

    /// Fails if this program can use the ledger only after a migration.
    pub(super) fn check_usable(self, path: &Path) -> Result<()> {
        if self >= OLDEST_USABLE {
            return Ok(());
        }
        let message = format!(
            "the ledger `{}` has schema {self}, and this program needs {OLDEST_USABLE} or newer: start the program that \
             owns it in this version, or repeat this with --migrate",
            path.display()
        );
        Err(Error::new(Kind::Unsupported, message))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns the schema of a ledger whose `user_version` is `compatible`.
pub(super) fn of(connection: &Connection, compatible: i64) -> rusqlite::Result<Schema> {
    // All three columns are named, since a person may have created a table of this name in a ledger
    // of schema 3.
    let mut ledger = match connection.prepare("SELECT schema, uuid FROM ledger WHERE one = 1") {
        Ok(ledger) => ledger,
        Err(error) if names_nothing(&error) => return Ok(Schema(compatible)),
        Err(error) => return Err(error),
    };
    let schema: Option<i64> = ledger.query_one([], |row| row.get(0)).optional()?;
    // A person may have deleted the row or set it to nonsense; the existence of the table still
    // proves a minimum.
    Ok(Schema(schema.unwrap_or(0)).max(Schema(compatible)).max(Schema::LEDGER))
}

/// Reports whether a statement was refused because it names a table or column that does not exist.
fn names_nothing(error: &rusqlite::Error) -> bool {
    // rusqlite has two variants for it, one of which depends on its features.
    let source = error.source().and_then(|source| source.downcast_ref::<ffi::Error>());
    source.is_some_and(|error| error.extended_code == ffi::SQLITE_ERROR)
}

/// Refuses a ledger that only a newer program may use.
pub(super) fn check_not_newer(connection: &Connection, compatible: i64, path: &Path) -> Result<()> {
    let latest = Schema::latest();
    if Schema(compatible) <= latest {
        return Ok(());
    }
    // Best effort: a newer version may have changed anything.
    let needs: Option<String> =
        connection.query_one("SELECT needs FROM ledger WHERE one = 1", [], |row| row.get(0)).ok();
    let needs = needs.filter(|needs| is_version(needs));
    let program = needs.map_or_else(
        || "update the program".to_owned(),
        |needs| format!("update the program to procledger {needs} or newer"),
    );
    let message = format!(
        "the ledger `{}` has version {compatible}, and this program knows up to {latest}: {program}",
        path.display()
    );
    Err(Error::new(Kind::Newer, message))
}

/// Reports whether a text may appear in a message as a version.
fn is_version(text: &str) -> bool {
    text.len() <= 32
        && !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'))
}

/// Returns every schema that exists.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = Schema> {
    (1..=Schema::latest().0).map(Schema)
}

/// Applies the migrations that the ledger lacks. A crash leaves all of them or none.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    migrate_to(connection, Schema::latest())
}

pub(super) fn migrate_to(connection: &mut Connection, wanted: Schema) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // 1. Read the number again under the write lock: an older program may have migrated up to its
    //    own schema meanwhile.
    let compatible = transaction.query_one("PRAGMA user_version", [], |row| row.get(0))?;
    let had = of(&transaction, compatible)?;
    // 2. Apply the missing migrations.
    for (schema, sql) in (1..).map(Schema).zip(MIGRATIONS) {
        if had < schema && schema <= wanted {
            transaction.execute_batch(sql)?;
        }
    }
    // 3. Set both numbers, unless a newer program has set them.
    if had < wanted {
        if wanted >= Schema::LEDGER {
            transaction
                .execute("UPDATE ledger SET schema = ?1, needs = ?2", (wanted.0, COMPATIBLE.1))?;
        }
        transaction.pragma_update(None, "user_version", wanted.0.min(COMPATIBLE.0))?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_numbered_without_a_gap_and_each_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let entries = std::fs::read_dir(root).expect("a folder");
        let mut folders: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        folders.sort();
        assert_eq!(folders.len(), MIGRATIONS.len());
        for ((number, sql), folder) in (1..).zip(MIGRATIONS).zip(folders) {
            let name = folder.file_name().expect("a name").to_string_lossy();
            assert_eq!(name.split('-').next(), Some(&*format!("{number:02}")), "{name}");
            assert_eq!(std::fs::read_to_string(folder.join("up.sql")).expect("SQL"), sql, "{name}");
        }
        assert!(Schema(COMPATIBLE.0) <= Schema::latest());
    }

    #[test]
    fn each_schema_is_known_by_its_numbers_and_reached_from_each_one_before() {
        for first in 1..=Schema::latest().0 {
            for then in first..=Schema::latest().0 {
                let mut connection = Connection::open_in_memory().expect("a database");
                migrate_to(&mut connection, Schema(first)).expect("migrated");
                migrate_to(&mut connection, Schema(then)).expect("migrated");
                let compatible: i64 = connection
                    .query_one("PRAGMA user_version", [], |row| row.get(0))
                    .expect("a number");
                assert_eq!(compatible, then.min(COMPATIBLE.0));
                assert_eq!(of(&connection, compatible).expect("read"), Schema(then));
            }
        }
    }

    #[test]
    fn a_schema_that_this_program_cannot_use_as_it_is_is_refused_with_what_to_do() {
        let before = Schema(OLDEST_USABLE.0 - 1);
        let error = before.check_usable(Path::new("/x/ledger.db")).expect_err("too old");
        let message = error.to_string();
        assert!(
            error.is_unsupported() && message.contains("`/x/ledger.db` has schema"),
            "{message}"
        );
        assert!(message.contains("repeat this with --migrate"), "{message}");
        for usable in [OLDEST_USABLE, Schema::latest(), Schema(Schema::latest().0 + 1)] {
            usable.check_usable(Path::new("/x/ledger.db")).expect("usable");
        }
    }

    /// A person may have deleted the row of the table; the table itself still proves a minimum.
    #[test]
    fn without_its_row_the_table_ledger_still_proves_a_minimum_schema() {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrate(&mut connection).expect("migrated");
        connection
            .execute("UPDATE ledger SET schema = 1", [])
            .expect_err("not a schema with the table");
        connection.execute("DELETE FROM ledger", []).expect("deleted");
        assert_eq!(of(&connection, COMPATIBLE.0).expect("read"), Schema::LEDGER);
    }
}
