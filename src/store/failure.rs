//! Converts errors of SQLite into the crate's error; nothing else does.

use std::{fs, io, path::Path};

use rusqlite::{Error as Sqlite, ErrorCode};

use super::trust::beside;
use crate::{
    error::{Error, Kind, Source},
    sys::filesystem::FileLimit,
};

/// Converts the error that SQLite reported during `doing` ("record a pass") on the ledger at
/// `path`.
pub(super) fn failed(path: &Path, doing: &str, source: Sqlite) -> Error {
    let code = source.sqlite_error_code();
    if let Some(limit) = code.and_then(|code| limit(path, code)) {
        let advice = limit.advice();
        let message = format!("failed to {doing} in the ledger `{}`: {advice}", path.display());
        return Error::os(message, io::Error::from_raw_os_error(limit.errno()));
    }
    let kind = kind(&source);
    let hint = match (kind, code) {
        (_, Some(ErrorCode::DiskFull)) => ": its disk is full, free some space",
        (_, Some(ErrorCode::SystemIoFailure)) => {
            ": its disk or file system reports an error, see the kernel log and the quota"
        }
        (_, Some(ErrorCode::OperationInterrupted)) => {
            ": it used more processor time than a statement is allowed, `procledger doctor` looks for the cause"
        }
        (_, Some(ErrorCode::OutOfMemory)) => ": out of memory",
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

/// Returns the limit that explains an error. SQLite reports the same code for a missing permission
/// as for any other reason why a file cannot be opened, and for a limit as for a broken disk.
fn limit(path: &Path, code: ErrorCode) -> Option<FileLimit> {
    let explains: &[FileLimit] = match code {
        ErrorCode::CannotOpen => &[
            FileLimit::Descriptors,
            FileLimit::OpenFiles,
            FileLimit::ReadOnly,
            FileLimit::Inodes,
            FileLimit::Space,
        ],
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => &[FileLimit::ReadOnly],
        ErrorCode::SystemIoFailure => {
            &[FileLimit::Descriptors, FileLimit::OpenFiles, FileLimit::Space, FileLimit::FileSize]
        }
        _ => return None,
    };
    let files = [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")];
    let longest =
        files.iter().filter_map(|file| Some(fs::symlink_metadata(file).ok()?.len())).max();
    let limit = FileLimit::of(path.parent()?, longest.unwrap_or(0))?;
    explains.contains(&limit).then_some(limit)
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
    let limit = limit(path, ErrorCode::CannotOpen);
    let why = limit.map_or("no connection was free in time, try again", FileLimit::advice);
    let message = format!("failed to {doing} in the ledger `{}`: {why}", path.display());
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
