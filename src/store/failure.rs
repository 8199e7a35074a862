//! Converts errors of SQLite into the crate's error; nothing else does.

use std::path::Path;

use rusqlite::{Error as Sqlite, ErrorCode};

use crate::error::{Error, Kind, Source};

/// Converts the error that SQLite reported during `doing` ("record a pass") on the ledger at
/// `path`.
pub(super) fn failed(path: &Path, doing: &str, source: Sqlite) -> Error {
    let kind = kind(&source);
    let code = source.sqlite_error_code();
    let hint = match (kind, code) {
        (_, Some(ErrorCode::DiskFull)) => ": its disk is full, free some space",
        (_, Some(ErrorCode::SystemIoFailure)) => {
            ": its disk or file system reports an error, see the kernel log"
        }
        (_, Some(ErrorCode::OperationInterrupted)) => {
            ": it used more processor time than a statement is allowed, `procledger doctor` looks for the cause"
        }
        (_, Some(ErrorCode::OutOfMemory)) => ": out of memory",
        (_, Some(ErrorCode::ReadOnly)) => {
            ": check the permissions of the file and of its folder, and whether the file system is mounted read-only"
        }
        (_, Some(ErrorCode::DatabaseCorrupt)) => ": it is damaged, `procledger doctor` shows where",
        (Kind::Busy, _) => ": another process holds its write lock, try again",
        (Kind::Denied, _) => ": check the permissions of the file and of its folder",
        (Kind::NotALedger, _) => ": it is not a ledger, or it is damaged",
        _ => "",
    };
    let message = format!("failed to {doing} in the ledger `{}`{hint}", path.display());
    let error = Error::new(kind, message);
    match code.and_then(errno) {
        Some(errno) => error.with_errno(errno),
        None => error,
    }
    .with_source(cause(source))
}

/// Returns the cause of an error: its code alone if SQLite's message repeats that.
fn cause(source: Sqlite) -> Source {
    match source {
        Sqlite::SqliteFailure(code, Some(message)) if code.to_string().ends_with(&message) => {
            code.into()
        }
        source => source.into(),
    }
}

/// Returns the errno that SQLite replaced by this code, if only one errno leads to it.
fn errno(code: ErrorCode) -> Option<i32> {
    match code {
        ErrorCode::DiskFull => Some(libc::ENOSPC),
        ErrorCode::OutOfMemory => Some(libc::ENOMEM),
        _ => None,
    }
}

/// Returns the error for when no connection was free in time, or none could be opened.
pub(super) fn no_connection(path: &Path, doing: &str, source: r2d2::Error) -> Error {
    let message = format!(
        "failed to {doing} in the ledger `{}`: no connection was free in time, try again",
        path.display()
    );
    Error::new(Kind::Busy, message).with_source(source)
}

fn kind(error: &Sqlite) -> Kind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            Kind::Denied
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Kind::NotALedger,
        Some(_) => Kind::Other,
        None => decoding(error),
    }
}

/// Returns the kind of a decoding error: no version of this program wrote the value, so the file
/// was edited.
fn decoding(error: &Sqlite) -> Kind {
    match error {
        Sqlite::FromSqlConversionFailure(..)
        | Sqlite::IntegralValueOutOfRange(..)
        | Sqlite::InvalidColumnType(..) => Kind::NotALedger,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn a_cause_does_not_repeat_itself() {
        let failure = |code, message: &str| {
            Sqlite::SqliteFailure(ffi::Error::new(code), Some(message.to_owned()))
        };
        for (source, causes) in [
            (
                failure(ffi::SQLITE_NOTADB, "file is not a database"),
                "Error code 26: file is not a database",
            ),
            (failure(ffi::SQLITE_ERROR, "no such table: x"), "no such table: x"),
        ] {
            let error = failed(Path::new("/x/ledger.db"), "read", source);
            let debug = format!("{error:?}");
            assert_eq!(debug.matches("not a database").count(), usize::from(causes.contains("26")));
            assert!(debug.contains(causes), "{debug}");
        }
    }

    #[test]
    fn every_code_of_sqlite_that_has_a_predicate_gets_it() {
        for (code, expected) in [
            (ffi::SQLITE_BUSY, Kind::Busy),
            (ffi::SQLITE_LOCKED, Kind::Busy),
            (ffi::SQLITE_READONLY, Kind::Denied),
            (ffi::SQLITE_CANTOPEN, Kind::Denied),
            (ffi::SQLITE_PERM, Kind::Denied),
            (ffi::SQLITE_NOTADB, Kind::NotALedger),
            (ffi::SQLITE_CORRUPT, Kind::NotALedger),
            (ffi::SQLITE_FULL, Kind::Other),
        ] {
            let source = Sqlite::SqliteFailure(ffi::Error::new(code), None);
            let error = failed(Path::new("/x/ledger.db"), "record a pass", source);
            assert_eq!(error.kind(), expected, "{code}");
            assert!(error.to_string().contains("record a pass in the ledger `/x/ledger.db`"));
            assert!(std::error::Error::source(&error).is_some(), "the chain is kept");
        }
    }
}
