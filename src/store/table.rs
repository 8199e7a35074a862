//! Tables: one list of columns for each, from which its INSERT, its SELECT and its reader are
//! generated.

use super::migration::Schema;

/// A column, and the first schema that has it.
pub(super) type Column = (&'static str, Schema);

/// Declares the columns of a table.
///
/// `column [since SCHEMA] = value;` is a column, the constant of [`Schema`] that introduced it, and
/// its value in a new row `$new`. The last expression makes a record from the cells: each column is
/// a variable of that name, whose type is that of the field that it becomes. Columns in `unread`
/// are only written. `$with` and `$joined` are the further data that an insert and a record need.
macro_rules! table {
    (
        $table:literal,
        insert($new:ident: $New:ty, $with:pat => $With:ty),
        read($joined:pat => $Joined:ty) -> $Record:ty,
        { $($column:ident $(since $since:ident)? = $value:expr;)+ },
        unread { $($unread:ident $(since $unread_since:ident)? = $unread_value:expr;)* },
        $record:expr
    ) => {
        const COLUMNS: &[$crate::store::table::Column] =
            &[$((stringify!($column), $crate::store::table::since!($($since)?))),+];

        /// Inserts a row; returns its number.
        fn insert_row(
            tx: &$crate::store::transaction::Transaction<'_>,
            $new: $New,
            $with: $With,
        ) -> rusqlite::Result<i64> {
            use $crate::store::{cell::Cell, migration::Schema, table::{self, since}};
            const UNREAD: &[table::Column] = &[$((stringify!($unread), since!($($unread_since)?))),*];
            let schema = tx.schema();
            let sql = table::insert($table, schema, &[COLUMNS, UNREAD]);
            let has = |since: Schema| since <= schema;
            tx.prepare_cached(&sql)?.execute(rusqlite::params_from_iter(
                [
                    $((has(since!($($since)?)), $value.write()),)+
                    $((has(since!($($unread_since)?)), $unread_value.write()),)*
                ]
                .iter()
                .filter_map(|(has, value)| has.then_some(value)),
            ))?;
            Ok(tx.last_insert_rowid())
        }

        /// Makes a record from the cells of [`COLUMNS`].
        fn read_row(
            reader: &mut $crate::store::cell::RowReader<'_, '_>,
            $joined: $Joined,
        ) -> rusqlite::Result<$Record> {
            $(let $column = reader.take()?;)+
            Ok($record)
        }
    };
}
pub(super) use table;

/// The schema that introduced a column; the first one if none is named.
macro_rules! since {
    () => {
        $crate::store::migration::Schema::FIRST
    };
    ($since:ident) => {
        $crate::store::migration::Schema::$since
    };
}
pub(super) use since;

/// Returns the statement that inserts a row with the columns that the schema has.
pub(super) fn insert(table: &str, schema: Schema, columns: &[&[Column]]) -> String {
    let columns = columns.concat();
    let present: Vec<&str> =
        columns.iter().filter(|(_, since)| *since <= schema).map(|(name, _)| *name).collect();
    let values = vec!["?"; present.len()].join(", ");
    format!("INSERT INTO {table} ({}) VALUES ({values})", present.join(", "))
}

/// Returns the columns for a query of the table `alias`; NULL for a column that the schema does not
/// have.
pub(super) fn select(alias: &str, schema: Schema, columns: &[Column]) -> String {
    let name = |(name, since): &Column| {
        if *since <= schema { format!("{alias}.{name}") } else { "NULL".to_owned() }
    };
    columns.iter().map(name).collect::<Vec<_>>().join(", ")
}
