//! Opens connections.
//!
//! r2d2's checks, lifetimes and per-pool threads are off: a connection to a local file does not
//! become stale. `busy_timeout` is set first on each connection, because the very next statement
//! may run into the recovery of a crashed writer.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use r2d2::NopErrorHandler;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig};

use super::{
    budget,
    failure::{failed, no_connection},
    ledger_files::LedgerFiles,
    pool_manager::PoolManager,
    pool_thread::pool_thread,
    trust::{self, Located, beside},
    writer::PATIENCE,
};
use crate::{
    error::{Error, Kind, Result},
    sys::fs_user::Account,
};

/// How long a statement waits for another process: a transaction of ours takes about a millisecond,
/// a checkpoint on a busy disk may take a second.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of the WAL after a checkpoint; a pass over 5,000 rows writes about this much.
pub(super) const WAL_LIMIT_BYTES: i64 = 4 << 20;
/// Size up to which a WAL is left when the ledger is closed: about as much as eight short commands
/// write. The next opening reads it once.
pub(super) const KEPT_WAL_BYTES: u64 = 512 << 10;
/// The number of cached statements: enough for all of this module, so that none is prepared twice.
const STATEMENTS: usize = 64;

pub(super) type Pool = r2d2::Pool<PoolManager>;

/// How a connection opens the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Read,
    /// Reads, through a descriptor that could write. If no `-wal` exists, SQLite creates one even
    /// for a reader, and only a connection that can write removes it again.
    ReadTidily,
    /// Reads the file as it is, in a folder where we cannot create a `-wal`. It has no writer now.
    /// If its owner begins to write while we read, the data may be inconsistent, but nothing is
    /// damaged.
    ReadFrozen,
}

/// Returns the path as a URI that makes SQLite take no lock and create no file
/// (<https://sqlite.org/uri.html>).
pub(super) fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            byte => uri.extend(["%", &format!("{byte:02X}")]),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}

impl Access {
    pub(super) fn for_reading(located: &Located) -> Self {
        if beside(&located.path, "-wal").exists() {
            Self::Read
        } else if trust::may_write(located.folder()) && trust::may_write(&located.path) {
            Self::ReadTidily
        } else {
            Self::ReadFrozen
        }
    }

    /// Returns the name that SQLite opens.
    fn name(self, path: &Path) -> PathBuf {
        match self {
            Self::ReadFrozen => immutable_uri(path),
            _ => path.to_path_buf(),
        }
    }

    fn flags(self) -> OpenFlags {
        let shared = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        shared
            | match self {
                // Never with CREATE, since only the setup creates the file.
                Self::Write | Self::ReadTidily => OpenFlags::SQLITE_OPEN_READ_WRITE,
                Self::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
                Self::ReadFrozen => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            }
    }
}

/// Creates the pool of connections that read; `first` is one of them.
pub(super) fn pool(
    path: &Path,
    access: Access,
    size: u32,
    first: Option<Connection>,
    account: Option<Account>,
    files: Arc<LedgerFiles>,
) -> Result<Pool> {
    let others = SqliteConnectionManager::file(access.name(path))
        .with_flags(access.flags())
        .with_init(move |connection| configure(connection, access));
    Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(PATIENCE)
        .thread_pool(Arc::clone(pool_thread()?))
        .error_handler(Box::new(NopErrorHandler))
        .build(PoolManager::new(first, others, account, files))
        .map_err(|e| no_connection(path, "open", e))
}

fn configure(connection: &Connection, access: Access) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    budget::keep(connection)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Not by pragmas, which are statements to prepare.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
    if access != Access::Write {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}

/// Opens a connection that can write, but whose closing changes nothing, so that the ledger may
/// still be refused.
pub(super) fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, Access::Write.flags())?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    configure(&connection, Access::Write)?;
    Ok(connection)
}

/// Returns the connection that writes: the one that inspected the ledger, or a new one. It is
/// opened in this thread, to get its errors: r2d2 would retry until its timeout, and then return
/// only a text.
pub(super) fn first_writer(path: &Path, opened: Option<Connection>) -> Result<Connection> {
    let wrong = |e| failed(path, "open a connection", e);
    let connection = opened.map_or_else(|| open_writer(path), Ok).map_err(wrong)?;
    if connection.is_readonly(MAIN_DB).map_err(wrong)? {
        let message = format!("the ledger `{}` cannot be written: check its mode", path.display());
        return Err(Error::new(Kind::Denied, message));
    }
    // A person may have switched WAL off with `sqlite3`; if it is on, this statement only reads.
    let mode: String =
        connection.query_one("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(wrong)?;
    if mode != "wal" {
        let message = format!(
            "the ledger `{}` cannot use WAL (SQLite says {mode}): choose a folder on a local disk",
            path.display()
        );
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(connection)
}

/// Does the same for reading. In the pool, a damaged ledger would be reported as busy, after ten
/// seconds.
pub(super) fn first_reader(path: &Path, access: Access) -> Result<Connection> {
    Connection::open_with_flags(access.name(path), access.flags())
        .and_then(|connection| configure(&connection, access).map(|()| connection))
        .map_err(|e| failed(path, "open a connection", e))
}

/// Opens a connection outside the pool, which checkpoints on request and not at each commit.
pub(super) fn another_writer(path: &Path) -> Result<Connection> {
    let open = || {
        let connection = Connection::open_with_flags(path, Access::Write.flags())?;
        configure(&connection, Access::Write)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(connection)
    };
    open().map_err(|e| failed(path, "open a connection", e))
}
