//! A ledger that is open: its connections, and what concerns the file as a whole.
//!
//! One connection writes, a few read. r2d2's checks, lifetimes and per-pool threads are off: a connection to a local file
//! does not go stale. `busy_timeout` is the first thing each connection gets, because the very next statement may meet
//! the recovery of a crashed writer.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, mpsc},
    time::Duration,
};

use r2d2::{NopErrorHandler, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig};
use scheduled_thread_pool::ScheduledThreadPool;

use super::{
    failure::{failed, no_connection},
    in_place::Files,
    manager::Manager,
    setup::{self, Standing},
    transaction::Transaction,
    trust::{self, Located, beside},
};
use crate::{
    error::{Error, Kind, Result},
    meter::Meter,
};

/// How long a statement waits for another process: a transaction of ours takes about a millisecond, a checkpoint on a
/// busy disk may take a second.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a thread waits for a connection: longer than one that waits for another process.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Readers at once: a host's pass, a listing, a report and one to spare.
const READERS: u32 = 4;
/// What is left of the WAL after a checkpoint; a pass over 5,000 rows writes about this much.
pub(super) const WAL_LIMIT_BYTES: i64 = 4 << 20;
/// Every statement of this module, so that none is prepared twice.
const STATEMENTS: usize = 64;
/// How long closing waits for a connection that is just being made, for another ledger perhaps.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Makes the connections of every pool in this process; one thread, where r2d2 would start three a pool.
static CONNECTOR: LazyLock<Arc<ScheduledThreadPool>> = LazyLock::new(|| {
    let pool = ScheduledThreadPool::builder().num_threads(1).thread_name_pattern("procledger-sql");
    Arc::new(pool.build())
});

type Pool = r2d2::Pool<Manager>;

/// An open ledger. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    files: Files,
    owner: u32,
    meter: Arc<Meter>,
    // Before the writer: the connection that closes last checkpoints the WAL and removes it, and readers cannot.
    readers: Pool,
    writer: Option<Pool>,
}

impl Drop for Inner {
    /// Lets the connector finish: until then it may hold a pool, and would be the one to close its connections, some
    /// time after this returned, or never when the process ends first.
    fn drop(&mut self) {
        let (done, wait) = mpsc::channel();
        CONNECTOR.execute(move || {
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(CLOSE_PATIENCE);
    }
}

impl Store {
    /// Opens the ledger for writing; creates or migrates it where needed.
    ///
    /// # Errors
    ///
    /// Denied when it, or its folder, could be written by somebody else, or cannot be written by us; newer, or not a
    /// ledger; unsupported on a network file system. Each of these leaves the disk as it was.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let located = Located::at(path)?;
        located.check_trusted()?;
        setup::make_current(&located)?;
        let before = Located::at(&located.path)?;
        let first = first_writer(&located.path)?;
        // Again: what did not exist before may be the file of a stranger. And only what was there before and is there now
        // is what SQLite has open.
        let located = Located::at(&located.path)?;
        located.check_trusted()?;
        if before.found.map(|found| found.file) != located.found.map(|found| found.file) {
            let message = format!(
                "the ledger `{}` was replaced while it was opened: try again",
                located.path.display()
            );
            return Err(Error::new(Kind::Busy, message));
        }
        // It is the writer from now on, and checkpoints when it closes.
        first
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .map_err(|e| failed(&located.path, "open a connection", e))?;
        let writer = pool(&located.path, Access::Write, 1, Some(first))?;
        Self::with(located, (Access::Read, None), Some(writer))
    }

    /// Opens the ledger for reading: rows stay as they are, and a live writer is not disturbed.
    ///
    /// # Errors
    ///
    /// Not found when there is no ledger; newer, or not a ledger, as for [`Store::open`].
    pub(crate) fn open_read_only(path: &Path) -> Result<Self> {
        let located = Located::at(path)?;
        let shown = located.path.display();
        if located.found.is_none() {
            return Err(Error::new(Kind::NotFound, format!("there is no ledger `{shown}`")));
        }
        match setup::standing(&located)? {
            Standing::Current => {}
            Standing::New => {
                let message = format!("the ledger `{shown}` is empty: its setup was not completed");
                return Err(Error::new(Kind::NotFound, message));
            }
            Standing::Older => {
                let message = format!(
                    "the ledger `{shown}` is of an older version: open it once for writing to migrate it"
                );
                return Err(Error::new(Kind::Unsupported, message));
            }
        }
        // SQLite under root hands these files to the ledger's owner, whatever they are.
        located.check_companions()?;
        let access = Access::for_reading(&located);
        let first = first_reader(&located.path, access)?;
        let store = Self::with(located, (access, Some(first)), None)?;
        store.schema_version()?;
        Ok(store)
    }

    fn with(
        located: Located,
        (readers, first): (Access, Option<Connection>),
        writer: Option<Pool>,
    ) -> Result<Self> {
        let Some(found) = located.found else {
            let message = format!("the ledger `{}` was removed meanwhile", located.path.display());
            return Err(Error::new(Kind::Other, message));
        };
        let readers = pool(&located.path, readers, READERS, first)?;
        let Located { path, .. } = located;
        let files = Files::of(&path, found.file);
        let owner = found.owner;
        let inner = Inner { path, files, owner, meter: Arc::default(), readers, writer };
        Ok(Self(Arc::new(inner)))
    }

    /// The real path: absolute, without symlinks.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Device and inode of the ledger when it was opened.
    pub(crate) fn file(&self) -> (u64, u64) {
        self.0.files.id()
    }

    pub(super) fn files(&self) -> &Files {
        &self.0.files
    }

    /// Owner of the ledger, whose processes alone it may touch.
    pub(crate) fn owner_uid(&self) -> u32 {
        self.0.owner
    }

    /// What is counted of this opening of the ledger.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.0.meter
    }

    /// The ledger's real path with `suffix` after its last character.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.0.path, suffix)
    }

    /// Version of SQLite at run time.
    pub(crate) fn sqlite_version() -> &'static str {
        rusqlite::version()
    }

    /// How many migrations the ledger has had.
    pub(crate) fn schema_version(&self) -> Result<u32> {
        self.read("read the version", |connection| {
            connection.query_one("PRAGMA user_version", [], |row| row.get(0))
        })
    }

    /// What is wrong with the file, a line each; empty when it is sound.
    pub(crate) fn check(&self) -> Result<Vec<String>> {
        self.read("look for damage", |connection| {
            let mut quick = connection.prepare("PRAGMA quick_check")?;
            let mut problems: Vec<String> =
                quick.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            problems.retain(|line| line != "ok");
            let mut keys = connection.prepare("PRAGMA foreign_key_check")?;
            let mut rows = keys.query([])?;
            while let Some(row) = rows.next()? {
                let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
                let id: Option<i64> = row.get(1)?;
                let id = id.map_or_else(String::new, |id| format!(" {id}"));
                problems.push(format!("{table}{id} names a row of {parent} that does not exist"));
            }
            Ok(problems)
        })
    }

    /// One immediate transaction. `work` gets the only writing connection: it must not call back into the store.
    pub(super) fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let connection = self.writer(doing)?;
        self.check_in_place()?;
        let answer = Transaction::begin(&connection).and_then(|transaction| {
            let answer = work(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        });
        answer.map_err(|e| failed(self.path(), doing, e))
    }

    /// One query, on a connection that cannot write.
    pub(super) fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        if self.0.readers.state().idle_connections == 0 {
            // It would open whatever the path names now, where rows of the same numbers are others.
            self.check_in_place()?;
        }
        let connection = self.0.readers.get().map_err(|e| no_connection(self.path(), doing, e))?;
        work(&connection).map_err(|e| {
            // Of an emptied file SQLite says that it is damaged.
            self.check_in_place().err().unwrap_or_else(|| failed(self.path(), doing, e))
        })
    }

    /// Whether a write would neither wait nor fail for want of the lock.
    pub(crate) fn can_be_written_now(&self) -> bool {
        let Some(writer) = self.0.writer.as_ref().and_then(Pool::try_get) else { return false };
        let free = writer
            .busy_timeout(Duration::ZERO)
            .and_then(|()| writer.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
        writer.busy_timeout(BUSY_TIMEOUT).is_ok() && free.is_ok()
    }

    pub(super) fn writer(&self, doing: &str) -> Result<PooledConnection<Manager>> {
        self.writers(doing)?.get().map_err(|e| no_connection(self.path(), doing, e))
    }

    /// An error where the ledger was opened for reading only.
    pub(super) fn check_writable(&self, doing: &str) -> Result<()> {
        self.writers(doing).map(|_| ())
    }

    fn writers(&self, doing: &str) -> Result<&Pool> {
        self.0.writer.as_ref().ok_or_else(|| {
            let message = format!(
                "failed to {doing} in the ledger `{}`: it was opened for reading only",
                self.path().display()
            );
            Error::new(Kind::Denied, message)
        })
    }
}

/// How a connection opens the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    /// Reads, through a descriptor that could write. Where no `-wal` exists, SQLite makes one for every reader, and only
    /// a connection that can write removes it again.
    ReadTidily,
    /// Reads the file as it stands, in a folder where we can make no `-wal`. Nobody writes it now. Should its owner begin
    /// while we read, what we read may be torn; it is still only read.
    ReadFrozen,
}

impl Access {
    fn for_reading(located: &Located) -> Self {
        if beside(&located.path, "-wal").exists() {
            Self::Read
        } else if trust::may_write(located.folder()) && trust::may_write(&located.path) {
            Self::ReadTidily
        } else {
            Self::ReadFrozen
        }
    }

    /// What SQLite is told to open.
    fn name(self, path: &Path) -> PathBuf {
        match self {
            Self::ReadFrozen => setup::immutable_uri(path),
            _ => path.to_path_buf(),
        }
    }

    fn flags(self) -> OpenFlags {
        let shared = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        shared
            | match self {
                // Never with CREATE: the setup alone makes the file.
                Self::Write | Self::ReadTidily => OpenFlags::SQLITE_OPEN_READ_WRITE,
                Self::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
                Self::ReadFrozen => OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            }
    }
}

fn pool(path: &Path, access: Access, size: u32, first: Option<Connection>) -> Result<Pool> {
    let others = SqliteConnectionManager::file(access.name(path))
        .with_flags(access.flags())
        .with_init(move |connection| configure(connection, access));
    Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(CONNECTION_TIMEOUT)
        .thread_pool(Arc::clone(&CONNECTOR))
        .error_handler(Box::new(NopErrorHandler))
        .build(Manager::new(first, others))
        .map_err(|e| no_connection(path, "open", e))
}

fn configure(connection: &Connection, access: Access) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF",
    )?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
    if access != Access::Write {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}

/// A connection made in this thread, for the sake of its errors: r2d2 tries again until its time is up, then knows a text.
fn first_writer(path: &Path) -> Result<Connection> {
    let wrong = |e| failed(path, "open a connection", e);
    let connection = Connection::open_with_flags(path, Access::Write.flags()).map_err(wrong)?;
    // Should the open be refused after all, closing this one must change nothing.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| configure(&connection, Access::Write))
        .map_err(wrong)?;
    if connection.is_readonly(MAIN_DB).map_err(wrong)? {
        let message = format!("the ledger `{}` cannot be written: check its mode", path.display());
        return Err(Error::new(Kind::Denied, message));
    }
    // Somebody may have switched it off with `sqlite3`; where it is on, this only reads.
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

/// The same for reading: a damaged ledger was told as a busy one, after ten seconds.
fn first_reader(path: &Path, access: Access) -> Result<Connection> {
    Connection::open_with_flags(access.name(path), access.flags())
        .and_then(|connection| configure(&connection, access).map(|()| connection))
        .map_err(|e| failed(path, "open a connection", e))
}

/// A connection beside the pools, which checkpoints when it is told to and not when it commits.
pub(super) fn another_writer(path: &Path) -> Result<Connection> {
    let open = || {
        let connection = Connection::open_with_flags(path, Access::Write.flags())?;
        configure(&connection, Access::Write)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(connection)
    };
    open().map_err(|e| failed(path, "open a connection", e))
}
