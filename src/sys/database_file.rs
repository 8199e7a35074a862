//! A database file as it is on disk, without the WAL through which SQLite reads it.

#![expect(unsafe_code, reason = "SQLite reads its file for us")]

use std::{ffi::c_int, ptr};

use rusqlite::{Connection, ffi};

/// The offset of the file change counter in the header
/// (<https://sqlite.org/fileformat.html#file_change_counter>).
pub(crate) const CHANGE_COUNTER: usize = 24;

/// Reads the change counter of the connection's file; `None` if it cannot be read.
///
/// Uses SQLite's own descriptor, since closing another one would drop the locks that this process
/// has on the file.
pub(crate) fn change_counter(connection: &Connection) -> Option<u32> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    let mut counter = [0; 4];
    // SAFETY: the handle is that of an open connection, which is borrowed. The control writes one
    // pointer, to a file that the connection keeps open; its methods are SQLite's own, and `xRead`
    // writes at most as many bytes as it is asked for.
    let read = unsafe {
        let argument = (&raw mut file).cast();
        let control = ffi::SQLITE_FCNTL_FILE_POINTER;
        let found =
            ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), control, argument);
        if found != ffi::SQLITE_OK {
            return None;
        }
        let methods = file.as_ref()?.pMethods.as_ref()?;
        let length = c_int::try_from(counter.len()).ok()?;
        let offset = i64::try_from(CHANGE_COUNTER).ok()?;
        methods.xRead?(file, counter.as_mut_ptr().cast(), length, offset)
    };
    (read == ffi::SQLITE_OK).then_some(u32::from_be_bytes(counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_that_of_the_file_and_not_of_the_wal() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("database");
        let connection = Connection::open(&path).expect("opened");
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").expect("made");
        let on_disk = || {
            let bytes = std::fs::read(&path).expect("read");
            let counter = bytes[CHANGE_COUNTER..].first_chunk().expect("a header");
            u32::from_be_bytes(*counter)
        };
        let before = on_disk();
        assert_eq!(change_counter(&connection), Some(before));
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("copied");
        assert!(on_disk() > before);
        assert_eq!(change_counter(&connection), Some(on_disk()));
    }
}
